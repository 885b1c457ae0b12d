"""A ledger that an earlier version made goes on."""

from pathlib import Path

import duckdb

from ledger.duckdb_store import DuckDbLedger
from ledger.model import Position
from ledger.ports import CallsAsk, Interval
from tests.ledger.events import Stream


def test_calls_from_before_their_balances_were_kept(tmp_path: Path) -> None:
    path, stream = tmp_path / "main.duckdb", Stream()
    stream.refuse()
    store = DuckDbLedger(path, new_id="ldg_1")
    store.append(stream.batch(Position()))
    store.close()
    with duckdb.connect(str(path)) as db:
        db.execute("ALTER TABLE calls DROP COLUMN balances")
    store = DuckDbLedger(path, new_id="ldg_2")
    stream.now_ms += 1
    stream.refuse()
    store.append(stream.batch(store.position()))
    newer, older = store.call_list(CallsAsk(Interval(0, 2**42)))
    store.close()
    assert newer.balances and older.balances is None
