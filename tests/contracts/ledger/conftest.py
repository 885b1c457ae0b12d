"""A ledger of each engine, empty at first."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.ports import LedgerStore
from tests.ledger.engines import ENGINES

Open = Callable[[], LedgerStore]


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    """An engine's name."""
    return str(request.param)


@pytest.fixture
def location(engine: str, tmp_path: Path) -> str:
    """Where the ledger of this test is kept, as the engine names it: a folder, later perhaps a server's database."""
    return str(tmp_path)


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
