"""Every cost record is in the Delta Lake table once, whatever happens to an export."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from deltalake import DeltaTable, write_deltalake

from core.errors import ConfigError, Conflict
from ledger.columns import CHARGE_COLUMNS, Kind
from ledger.delta import PARTITION, export_delta
from ledger.duckdb_store import DuckDbLedger
from ledger.errors import LedgerUnavailable
from ledger.ports import Interval
from ledger.records import batch_of
from tests.ledger.events import DAY_MS, HOUR_MS, RECORDED_MS, everything

ALL_TIME = Interval(0, 2**52)
NAMES = [c.name for c in CHARGE_COLUMNS]
_KEY = NAMES.index("x_SourceRecordId")
_IN_2020_MS = 1_577_836_800_000
#: When everything in `store` is over and settled.
LATER_MS = RECORDED_MS + 5 * DAY_MS


class Ledger(DuckDbLedger):
    """One that counts its readings, and stops in one of them on request."""

    readings = 0
    stops_after: int | None = None

    def charges(self, *asked: Any, **named: Any) -> Iterator[list[tuple[Any, ...]]]:
        self.readings += 1
        for number, page in enumerate(super().charges(*asked, **named), 1):
            yield page
            if number == self.stops_after:
                raise LedgerUnavailable("it went away")


def opened(folder: Path) -> Ledger:
    return Ledger(folder / "ledger.duckdb", new_id="ldg_1", memory_mib=128)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Recorded in three parts, two days apart."""
    monkeypatch.setattr("ledger.duckdb_store._PAGE", 5)
    ledger, events = opened(tmp_path), everything().events
    for part in range(3):
        some = events[part * len(events) // 3 : (part + 1) * len(events) // 3]
        at_ms = RECORDED_MS + part * 2 * DAY_MS
        ledger.append(batch_of(some, [], ledger.position(), "ep_1", at_ms))
    yield ledger
    ledger.close()


def in_ledger(store: Ledger) -> list[tuple[Any, ...]]:
    return sorted((row for page in store.charges(ALL_TIME, (), NAMES) for row in page), key=lambda row: str(row[_KEY]))


def in_table(table: Path) -> list[tuple[Any, ...]]:
    found = DeltaTable(str(table)).to_pyarrow_table().to_pylist()
    rows = [tuple(without_zone(row[name]) for name in NAMES) for row in found]
    return sorted(rows, key=lambda row: str(row[_KEY]))


def without_zone(cell: Any) -> Any:
    if isinstance(cell, datetime):
        assert cell.utcoffset() is not None
        return cell.astimezone(UTC).replace(tzinfo=None)
    return cell


def test_every_record_to_the_last_digit(store: Ledger, tmp_path: Path):
    table, told = tmp_path / "delta", list[int]()
    assert export_delta(store, table, LATER_MS, _IN_2020_MS, told.append) == len(in_ledger(store)) == told[-1] > 20
    assert in_table(table) == in_ledger(store)


def test_the_second_export_adds_nothing(store: Ledger, tmp_path: Path):
    table = tmp_path / "delta"
    export_delta(store, table, LATER_MS, _IN_2020_MS)
    version = DeltaTable(str(table)).version()
    assert export_delta(store, table, LATER_MS + DAY_MS, _IN_2020_MS) == 0
    assert DeltaTable(str(table)).version() == version
    assert in_table(table) == in_ledger(store)


def test_types_and_partitions(store: Ledger, tmp_path: Path):
    table = tmp_path / "delta"
    export_delta(store, table, LATER_MS, _IN_2020_MS)
    found = {f.name: (f.type.type, f.nullable) for f in DeltaTable(str(table)).schema().fields}
    types = {Kind.TEXT: "string", Kind.JSON: "string", Kind.TIME: "timestamp", Kind.WHOLE: "long"}
    types |= {Kind.MONEY: "decimal(38,12)", Kind.QUANTITY: "decimal(38,12)", Kind.UNIT_PRICE: "decimal(38,18)"}
    assert found.pop(PARTITION) == ("string", False)
    assert found == {c.name: (types[c.kind], not c.required) for c in CHARGE_COLUMNS}
    assert DeltaTable(str(table)).metadata().partition_columns == [PARTITION]
    months = {f"{row[NAMES.index('BillingPeriodStart')]:%Y-%m}" for row in in_ledger(store)}
    assert {p.name for p in table.glob("x_*")} == {f"{PARTITION}={month}" for month in months}


_KILLED = """
import os, signal, sys
from pathlib import Path
import ledger.duckdb_store
from ledger.delta import export_delta
ledger.duckdb_store._PAGE = 5
folder, later_ms, records = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = ledger.duckdb_store.DuckDbLedger(folder / "ledger.duckdb", new_id="", memory_mib=128)
def progress(count):
    if count >= records:
        os.kill(os.getpid(), signal.SIGKILL)
export_delta(store, folder / "delta", later_ms, 0, progress)
"""


@pytest.mark.parametrize("records", [1, 14, 20, 26])
def test_an_export_that_is_killed_is_repeated(store: Ledger, tmp_path: Path, records: int):
    """In the first commit, and in later ones with others in place."""
    expected = in_ledger(store)
    store.close()
    words = [sys.executable, "-c", _KILLED, str(tmp_path), str(LATER_MS), str(records)]
    assert subprocess.run(words, timeout=60).returncode == -9
    again = opened(tmp_path)
    done = len(in_table(tmp_path / "delta"))
    assert export_delta(again, tmp_path / "delta", LATER_MS, 0) == len(expected) - done
    assert in_table(tmp_path / "delta") == expected
    again.close()


def test_of_two_at_once_one_is_refused(store: Ledger, tmp_path: Path):
    table = tmp_path / "delta"

    def meanwhile(count: int) -> None:
        if count == 5:
            other = threading.Thread(target=export_delta, args=(store, table, LATER_MS, _IN_2020_MS))
            other.start()
            other.join()

    with pytest.raises(Conflict, match="meanwhile"):
        export_delta(store, table, LATER_MS, _IN_2020_MS, meanwhile)
    assert in_table(table) == in_ledger(store)


def test_what_is_appended_after_its_hour_is_not_missed(tmp_path: Path):
    """A batch is stamped, then appended: the hour may be over by then."""
    store, events, hour_ms = opened(tmp_path), everything().events, RECORDED_MS // HOUR_MS * HOUR_MS
    store.append(batch_of(events[:20], [], store.position(), "ep_1", hour_ms - 500))
    export_delta(store, tmp_path / "delta", hour_ms + 1, _IN_2020_MS)
    store.append(batch_of(events[20:], [], store.position(), "ep_1", hour_ms - 100))
    export_delta(store, tmp_path / "delta", hour_ms + HOUR_MS, _IN_2020_MS)
    assert in_table(tmp_path / "delta") == in_ledger(store) != []
    store.close()


def test_years_without_records_cost_nothing(store: Ledger, tmp_path: Path):
    export_delta(store, tmp_path / "delta", LATER_MS, 0)
    assert store.readings < 10


def test_a_ledger_that_goes_away(store: Ledger, tmp_path: Path):
    store.stops_after = 2
    with pytest.raises(LedgerUnavailable, match="went away"):
        export_delta(store, tmp_path / "delta", LATER_MS, _IN_2020_MS)
    store.stops_after = None
    export_delta(store, tmp_path / "delta", LATER_MS, _IN_2020_MS)
    assert in_table(tmp_path / "delta") == in_ledger(store)


def test_a_table_of_something_else(store: Ledger, tmp_path: Path):
    write_deltalake(str(tmp_path / "delta"), pyarrow.table({"a": [1]}))
    with pytest.raises(ConfigError, match="other columns"):
        export_delta(store, tmp_path / "delta", LATER_MS, _IN_2020_MS)
