"""One simulator and one gateway for the tests of a file that do not need their own."""

from collections.abc import Iterator

import pytest

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.simulated import Simulated, running_simulator


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    with running_gateway(
        DATABRICKS_BASE_URL=simulator.base_url, DATABRICKS_API_KEY="x", SPENDGATE_LOG_LEVEL="info"
    ) as running:
        yield running
