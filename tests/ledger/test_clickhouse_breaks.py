"""Appends to ClickHouse that break off, arrive late or come twice: each batch has one effect, in every answer."""

from collections.abc import Iterator
from typing import Any

import pytest

from ledger import clickhouse_connection
from ledger.clickhouse_connection import Connection
from ledger.clickhouse_store import ClickHouseLedger
from ledger.errors import LedgerUnavailable
from ledger.model import Position
from tests.contracts.ledger.test_append import NEVER, picture, posted
from tests.ledger.events import Stream, everything
from tests.support.chdb_server import ChdbServer, chdb_server


class Stopped(Exception):
    """The process ended here."""


class Breaking:
    """Counts what is written, and stops before the write of that number; `late`: the write still arrives, later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stop_at = -1
        self.writes = 0
        self.late: list[tuple[Any, ...]] = []
        self.insert, self.run = Connection.insert, Connection.run
        monkeypatch.setattr(Connection, "insert", lambda to, *given: self._write(self.insert, to, *given))
        monkeypatch.setattr(Connection, "run", lambda to, *given: self._write(self.run, to, *given))

    def _write(self, write: Any, to: Connection, *given: Any) -> None:
        given = tuple(list(g) if not isinstance(g, str) else g for g in given)
        self.writes += 1
        if self.writes == self.stop_at:
            self.late.append((write, *given))
            raise Stopped
        write(to, *given)

    def arrive(self, to: Connection) -> None:
        """What was on its way reaches the server now."""
        for write, *given in self.late:
            write(to, *given)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbServer]:
    with chdb_server(tmp_path_factory.mktemp("chdb")) as running:
        yield running


@pytest.fixture
def url(server: ChdbServer) -> Iterator[str]:
    with server.database() as made:
        yield made


def opened(url: str) -> ClickHouseLedger:
    return ClickHouseLedger(url, new_id="ldg_1")


def writes_of(breaking: Breaking, store: ClickHouseLedger, stream: Stream) -> int:
    """How many writes the first batch takes."""
    breaking.writes = 0
    store.append(stream.batch(NEVER))
    return breaking.writes


@pytest.fixture(scope="module")
def whole(server: ChdbServer) -> tuple[object, ...]:
    """What a ledger says that took everything in one batch."""
    with server.database() as url:
        store = opened(url)
        store.append(everything().batch(NEVER))
        return picture(store)


@pytest.fixture(scope="module")
def nothing(server: ChdbServer) -> tuple[object, ...]:
    """What an empty ledger says."""
    with server.database() as url:
        return picture(opened(url))


#: Events, calls, states, postings, charges, two kinds of sums, position; before them the epoch's number.
WRITES = 9


def test_an_append_is_of_so_many_writes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else the tests below do not stop between all of them."""
    assert writes_of(Breaking(monkeypatch), opened(url), everything()) == WRITES


@pytest.mark.parametrize("stop_at", range(1, WRITES + 1))
@pytest.mark.parametrize("arrives", ["never", "before", "after"])
def test_it_stops_between_any_two_writes(
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    nothing: tuple[object, ...],
    whole: tuple[object, ...],
    stop_at: int,
    arrives: str,
) -> None:
    """The write that it stopped at may still arrive: before the batch comes again, or after."""
    store, stream, breaking = opened(url), everything(), Breaking(monkeypatch)
    breaking.stop_at, breaking.writes = stop_at, 0
    with pytest.raises(Stopped):
        store.append(stream.batch(NEVER))
    assert picture(store) == nothing
    assert store.position() == NEVER
    store = opened(url)
    breaking.stop_at = -1
    if arrives == "before":
        breaking.arrive(store._server)
    position = store.position()
    if arrives == "before" and stop_at == WRITES:  # it was the commit
        assert position.sequence == len(stream.events)
    else:
        assert position == NEVER
        assert store.append(stream.batch(position)) == len(stream.events)
    if arrives == "after":
        breaking.arrive(store._server)
    assert picture(store) == whole
    for _ in range(3):
        store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
        assert picture(store) == whole
    assert store.facts()["rows"]["events"] == len(stream.events)


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_a_batch_that_broke_off_comes_again_under_a_new_epoch(
    url: str, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """The store was lost, too: some of what broke off never was, the rest has other numbers."""
    stream, breaking, store = everything(), Breaking(monkeypatch), opened(url)
    store.append(stream.batch(NEVER, 12))
    breaking.stop_at, breaking.writes = stop_at, 0
    with pytest.raises(Stopped):
        store.append(stream.batch(store.position()))
    breaking.stop_at = -1
    again = stream.rebuilt("ep_2")
    again.settle(again.hold("newcomer"))
    store = opened(url)
    store.append(again.batch(store.position()))
    assert posted(store) == again.spent
    breaking.arrive(store._server)
    assert posted(store) == again.spent
    identities = [e.identity for e in store.events(NEVER)]
    assert len(identities) == len(set(identities))


def test_a_compaction_breaks_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, breaking, store = everything(), Breaking(monkeypatch), opened(url)
    while store.position().sequence < len(stream.events):
        store.append(stream.batch(store.position(), 6))
    before = picture(store)
    for stop_at in range(1, 30):
        breaking.stop_at, breaking.writes = stop_at, 0
        try:
            store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
        except Stopped:
            assert picture(store) == before
        else:
            break
    else:
        pytest.fail("it never came to its end")
    assert stop_at > 5
    breaking.stop_at = -1
    breaking.arrive(store._server)
    assert picture(store) == before
    stream.settle(stream.hold())
    store.append(stream.batch(store.position()))
    assert posted(store) == stream.spent


def test_an_insert_that_the_client_sends_twice_is_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the server was done; clickhouse-connect sends it once more."""
    insert = Connection.insert

    def twice(to: Connection, table: str, rows: Any) -> None:
        lines = list(rows)
        insert(to, table, lines)
        insert(to, table, lines)

    monkeypatch.setattr(clickhouse_connection.Connection, "insert", twice)
    store, stream = opened(url), everything()
    store.append(stream.batch(NEVER))
    assert posted(store) == stream.spent
    assert len(list(store.events(NEVER))) == len(stream.events)


def test_the_server_goes_and_comes_back(tmp_path: Any) -> None:
    stream = everything()
    with chdb_server(tmp_path, password="s3cret") as server:
        port = server.port
        server.execute("CREATE DATABASE books")
        url = f"clickhouse://default:s3cret@127.0.0.1:{port}/books"
        store = opened(url)
        store.append(stream.batch(NEVER, 12))
        at = store.position()
    for ask in (store.position, lambda: store.append(stream.batch(at)), lambda: opened(url)):
        with pytest.raises(LedgerUnavailable) as told:
            ask()
        assert f"127.0.0.1:{port}/books" in told.value.message
        assert "s3cret" not in told.value.message
    with chdb_server(tmp_path, port=port, password="s3cret"):
        assert store.position() == at
        store.append(stream.batch(at))
        assert posted(store) == stream.spent
        with pytest.raises(LedgerUnavailable, match="Authentication"):
            opened(url.replace("s3cret", "wrong"))
        with pytest.raises(LedgerUnavailable, match="nowhere"):
            opened(url.replace("/books", "/nowhere"))


def test_position_is_of_the_newest_batch(url: str) -> None:
    store, stream = opened(url), everything()
    store.append(stream.batch(NEVER, 5))
    again = stream.rebuilt("aa")  # sorts before, and has smaller numbers
    store.append(again.batch(store.position(), 2))
    assert store.position() == Position("aa", 2, again.events[1][0], store.position().refusal_id)
