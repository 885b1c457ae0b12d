"""A hold that must be on replicas or on disk is not given out before it is."""

import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from budget.connect import connect
from budget.embedded import EmbeddedValkey
from budget.link import Acks
from budget.model import Hold, ResolveMode
from budget.redis_store import RedisBudgetStore
from core.errors import StoreUnavailable
from tests.budget.builders import ask, end, fixed, held, spent_and_held, terms
from tests.support.stores import PATIENT, RunningServer, client_of, running_redis

ACCOUNT = terms(limit=1000)


@pytest.fixture
def pair() -> Iterator[tuple[RunningServer, RunningServer]]:
    """A primary and its replica."""
    at_once = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0"}
    with running_redis(at_once) as primary, running_redis() as replica:
        with client_of(replica) as client:
            client.replicaof("127.0.0.1", primary.port)
        with client_of(primary) as client:
            client.set("x", "y")
            while client.wait(1, 100) < 1:
                pass
        yield primary, replica


async def _open(url: str, timeout_ms: int) -> RedisBudgetStore:
    opened = RedisBudgetStore(connect(url + PATIENT), acks=Acks(replicas=1, timeout_ms=timeout_ms))
    await opened.found("ep_1")
    return opened


@pytest.fixture
async def store(pair: tuple[RunningServer, RunningServer]) -> AsyncIterator[RedisBudgetStore]:
    """With time for a replica that lives, on a busy machine too."""
    opened = await _open(pair[0].url, 20_000)
    yield opened
    await opened.close()


async def test_a_hold_that_a_replica_has(store: RedisBudgetStore, pair: tuple[RunningServer, RunningServer]):
    await held(store, "h1", 30, ACCOUNT)
    with client_of(pair[1]) as replica:
        assert replica.get(store.key("hold", "h1")).startswith("held")
    assert (await end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)).applied


@pytest.fixture
async def impatient(pair: tuple[RunningServer, RunningServer]) -> AsyncIterator[RedisBudgetStore]:
    """The same, for one that does not."""
    opened = await _open(pair[0].url, 200)
    yield opened
    await opened.close()


async def test_a_replica_that_stands_still(
    store: RedisBudgetStore, impatient: RedisBudgetStore, pair: tuple[RunningServer, RunningServer]
):
    await held(store, "h1", 30, ACCOUNT)
    os.kill(pair[1].process.pid, signal.SIGSTOP)
    try:
        for _ in range(2):  # asked again under the same id, it is no more acknowledged than before
            with pytest.raises(StoreUnavailable, match="0 of 1 replicas have it"):
                await impatient.reserve(ask("h2", [ACCOUNT], fixed(40)))
        assert (await end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)).applied, "an end waits for nobody"
        assert (await end(store, ResolveMode.VOID, "h2", [ACCOUNT])).applied
    finally:
        os.kill(pair[1].process.pid, signal.SIGCONT)
    assert isinstance(await store.reserve(ask("h3", [ACCOUNT], fixed(40))), Hold)
    assert await spent_and_held(store, ACCOUNT) == (20, 40)


async def test_a_refusal_needs_nobody(impatient: RedisBudgetStore, pair: tuple[RunningServer, RunningServer]):
    pair[1].kill()
    verdict = await impatient.reserve(ask("h1", [ACCOUNT], fixed(4000)))
    assert not isinstance(verdict, Hold)


async def test_a_script_that_the_server_forgot_is_loaded(
    store: RedisBudgetStore, pair: tuple[RunningServer, RunningServer]
):
    await held(store, "h1", 30, ACCOUNT)
    with client_of(pair[0]) as primary:
        primary.script_flush()
    await held(store, "h2", 30, ACCOUNT)
    assert await spent_and_held(store, ACCOUNT) == (0, 60)


async def test_a_hold_on_the_primarys_disk(tmp_path):
    with EmbeddedValkey.start(tmp_path / "valkey") as server:
        store = RedisBudgetStore(connect(server.url), acks=Acks(fsync=True, timeout_ms=1500))
        await store.found("ep_1")
        await held(store, "h1", 30, ACCOUNT)
        await store._client.config_set("appendonly", "no")
        with pytest.raises(StoreUnavailable):
            await store.reserve(ask("h2", [ACCOUNT], fixed(1)))
        await store.close()
