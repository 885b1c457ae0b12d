"""A ledger of each engine, empty at first."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.model import Batch
from ledger.ports import LedgerStore
from tests.ledger import oracle
from tests.ledger.engines import ENGINES
from tests.ledger.events import everything
from tests.support.chdb_server import ChdbServer, chdb_server

Open = Callable[[], LedgerStore]


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """An engine's name."""
    return str(request.param)


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbServer]:
    """A ClickHouse server."""
    with chdb_server(tmp_path_factory.mktemp("chdb")) as server:
        yield server


@pytest.fixture
def location(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where the ledger of this test is kept, as the engine names it: a folder, or a database of a server."""
    with place_of(engine, request, tmp_path) as place:
        yield place


@contextmanager
def place_of(engine: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    """A place for a ledger of its own."""
    if engine != "clickhouse":
        yield str(folder)
        return
    server: ChdbServer = request.getfixturevalue("clickhouse")
    with server.database() as url:
        yield url


@pytest.fixture
def reopen(engine: str, location: str) -> Iterator[Open]:
    """Opens the test's ledger, after closing it if it is open."""
    opened: list[LedgerStore] = []

    def open_again() -> LedgerStore:
        while opened:
            opened.pop().close()
        opened.append(ENGINES[engine](location))
        return opened[0]

    yield open_again
    while opened:
        opened.pop().close()


@pytest.fixture
def store(reopen: Open) -> LedgerStore:
    """The test's ledger."""
    return reopen()


@dataclass(frozen=True)
class Full:
    """A ledger that has a bit of everything, and the batches that it has. Of many tests: nothing is to be added."""

    store: LedgerStore
    batches: list[Batch]
    expected: oracle.Oracle
    events: list[tuple[str, dict[str, str]]]


@pytest.fixture(scope="session", params=list(ENGINES))
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    """It was added in several batches, so that sums are merged."""
    with place_of(request.param, request, tmp_path_factory.mktemp("full")) as place:
        store, stream, batches = ENGINES[request.param](place), everything(), list[Batch]()
        while store.position().sequence < len(stream.events):
            batches.append(stream.batch(store.position(), 9))
            store.append(batches[-1])
        yield Full(store, batches, oracle.Oracle(batches), stream.events)
        store.close()
