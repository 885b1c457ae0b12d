"""The four stores that one contract holds for. Servers live for the session, a namespace for one test."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from budget.connect import connect
from budget.memory_store import MemoryBudgetStore
from budget.redis_store import RedisBudgetStore
from tests.budget.builders import Store, wall_ms
from tests.support.stores import PATIENT, running_cluster, running_redis, running_valkey

SERVERS = ("valkey", "redis", "cluster")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    with running_valkey() as server:
        yield server.url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with running_redis() as server:
        yield server.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    with running_cluster() as cluster:
        yield cluster.url


async def _open(kind: str, request: pytest.FixtureRequest) -> RedisBudgetStore:
    url = request.getfixturevalue(f"{kind}_url") + PATIENT
    store = RedisBudgetStore(connect(url), namespace=uuid.uuid4().hex)
    await store.found("ep_1")
    return store


@pytest.fixture(params=("memory", *SERVERS))
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store of each kind."""
    if request.param == "memory":
        yield MemoryBudgetStore(wall_ms)
        return
    opened = await _open(request.param, request)
    yield opened
    await opened.close()


@pytest.fixture(params=SERVERS)
async def server_store(request: pytest.FixtureRequest) -> AsyncIterator[RedisBudgetStore]:
    """An empty store on each kind of server."""
    opened = await _open(request.param, request)
    yield opened
    await opened.close()
