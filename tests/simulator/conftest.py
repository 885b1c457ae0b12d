from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from tests.support.simulated import Simulated, running_simulator

DBRX = "databricks-dbrx-instruct"


@pytest.fixture(scope="session")
def shared() -> Iterator[Simulated]:
    """One process for the tests of a session; `sim` gives each of them a clean bill."""
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture
def sim(shared: Simulated) -> Simulated:
    shared.clear_faults()
    shared.reset()
    return shared


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=15)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}, timeout=timeout) as session:
        yield session
