"""A ledger that an earlier version made goes on."""

from pathlib import Path

import duckdb

from ledger.clickhouse_store import ClickHouseLedger
from ledger.duckdb_store import DuckDbLedger
from ledger.model import Position
from ledger.ports import CallsAsk, Interval, LedgerStore
from tests.ledger.events import Stream
from tests.support.chdb_server import chdb_server

_WITHOUT_BALANCES = "ALTER TABLE calls DROP COLUMN balances"


def _goes_on(store: LedgerStore, stream: Stream) -> None:
    stream.now_ms += 1
    stream.refuse()
    store.append(stream.batch(store.position()))
    newer, older = store.call_list(CallsAsk(Interval(0, 2**42)))
    store.close()
    assert newer.balances and older.balances is None


def _refusal() -> Stream:
    stream = Stream()
    stream.refuse()
    return stream


def test_calls_from_before_their_balances_were_kept(tmp_path: Path) -> None:
    path, stream = tmp_path / "main.duckdb", _refusal()
    store = DuckDbLedger(path, new_id="ldg_1")
    store.append(stream.batch(Position()))
    store.close()
    with duckdb.connect(str(path)) as db:
        db.execute(_WITHOUT_BALANCES)
    _goes_on(DuckDbLedger(path, new_id="ldg_2"), stream)


def test_the_same_in_clickhouse(tmp_path: Path) -> None:
    with chdb_server(tmp_path) as server, server.database("books") as url:
        store, stream = ClickHouseLedger(url, new_id="ldg_1"), _refusal()
        store.append(stream.batch(Position()))
        store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
        store.close()
        server.execute(_WITHOUT_BALANCES.replace("calls", "books.calls"))
        server.execute("ALTER TABLE books.positions DROP COLUMN merged_days")
        _goes_on(ClickHouseLedger(url, new_id="ldg_2"), stream)
