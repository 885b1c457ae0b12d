"""Names that mean something to SQL, JSON or the way that parameters are sent, as groups and in filters."""

from collections.abc import Iterator

import pytest

from ledger.clickhouse_store import ClickHouseLedger
from ledger.model import Position
from ledger.ports import CallsAsk, Filter, Interval, SpendAsk
from tests.ledger.events import Stream
from tests.support.chdb_server import chdb_server

ALL_TIME = Interval(0, 2**42)
NAMES = ("it's", "back\\slash", "tab\there", '"quoted"', "{x:String}", "[1,2]", "NULL", "\\N", "größe 💰", "a,b")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseLedger]:
    stream = Stream()
    for name in NAMES:
        stream.settle(stream.hold(name, session=name), provider=name)
    with chdb_server(tmp_path_factory.mktemp("chdb")) as server, server.database() as url:
        ledger = ClickHouseLedger(url, new_id="ldg_1")
        ledger.append(stream.batch(Position()))
        yield ledger


@pytest.mark.parametrize("name", NAMES, ids=repr)
@pytest.mark.parametrize("dimension", ["agent", "session", "provider"])
def test_a_name_is_found_as_it_is(store: ClickHouseLedger, dimension: str, name: str) -> None:
    ask = SpendAsk(ALL_TIME, (dimension,), filters=(Filter(dimension, (name,)),))
    assert [row.group for row in store.spend(ask)] == [(name,)]
    assert [row.group for row in store.calls(ask)] == [(name,)]
    [call] = store.call_list(CallsAsk(ALL_TIME, (Filter(dimension, (name,)),)))
    assert call.provider == name
    assert len(store.call_list(CallsAsk(ALL_TIME, before=(call.at_ms, call.identity)))) == NAMES.index(name)


def test_many_names_in_one_filter(store: ClickHouseLedger) -> None:
    names = (*NAMES, *(f"nobody-{n:060}" for n in range(1000)))
    assert len(store.calls(SpendAsk(ALL_TIME, ("agent",), filters=(Filter("agent", names),)))) == len(NAMES)
    assert store.postings([f"agents:month-2026-11:{name}" for name in names])
