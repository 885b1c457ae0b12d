"""Sums of many batches become one row each, and what is merged already is left alone."""

from pathlib import Path

import duckdb
import pytest

from ledger.duckdb_store import DuckDbLedger
from ledger.model import Position
from tests.ledger.events import DAY_MS, START_MS, Stream

KEYS = {
    "spend_slots": "span_ms, slot_ms, path, provider, service, category, meter, model, model_requested, basis, source",
    "call_slots": "span_ms, slot_ms, path, provider, model, model_requested, state, outcome, kind, refusal, downgraded",
    "account_slots": "slot_ms, account_id",
}


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """What the closed file says."""
    with duckdb.connect(str(path), read_only=True) as db:
        return db.execute(query).fetchall()


def fill(path: Path, starts_ms: list[int], *, compact: bool = True) -> None:
    """Batches of one call each, at these times."""
    store = DuckDbLedger(path, new_id="ldg_1", memory_mib=256)
    stream = Stream(now_ms=starts_ms[0])
    stream.events = [("0-1", {})] * store.position().sequence
    for stream.now_ms in starts_ms:
        stream.settle(stream.hold(), lasted_ms=0)
        store.append(stream.batch(store.position()))
    if compact:
        store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
    store.close()


@pytest.mark.parametrize("table", KEYS)
def test_a_compaction_leaves_a_row_for_each_sum(tmp_path: Path, table: str) -> None:
    path = tmp_path / "ledger.duckdb"
    twice = f"SELECT count(*) FROM (SELECT 1 FROM {table} GROUP BY {KEYS[table]} HAVING count(*) > 1)"
    fill(path, [START_MS, START_MS + 1, START_MS + 2 * DAY_MS], compact=False)
    assert rows(path, twice) != [(0,)]
    fill(path, [START_MS + 3 * DAY_MS])
    assert rows(path, twice) == [(0,)]
    fill(path, [START_MS + 3 * DAY_MS + 1, START_MS + 2])  # the last of them is late
    assert rows(path, twice) == [(0,)]


def test_only_the_days_since_are_merged_again(tmp_path: Path) -> None:
    path, unmerged = tmp_path / "ledger.duckdb", "SELECT unmerged_ms FROM ledger"
    midnight_ms = START_MS // DAY_MS * DAY_MS
    fill(path, [START_MS, START_MS + 2 * DAY_MS], compact=False)
    assert rows(path, unmerged) == [(midnight_ms,)]
    fill(path, [START_MS + 3 * DAY_MS])
    assert rows(path, unmerged) == [(2**62,)]
    fill(path, [START_MS + 3 * DAY_MS + 1, START_MS + 4 * DAY_MS], compact=False)
    assert rows(path, unmerged) == [(midnight_ms + 3 * DAY_MS,)]


def test_a_new_ledger_has_nothing_to_merge(tmp_path: Path) -> None:
    path = tmp_path / "ledger.duckdb"
    store = DuckDbLedger(path, new_id="ldg_1", memory_mib=256)
    store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
    assert store.position() == Position()
    store.close()
