"""Cost records as a Delta Lake table, for lakehouses; needs the extra `delta`.

Whole hours of x_RecordedAt are appended, in one commit together with the number of the last hour as the transaction of
this ledger. A commit is there or not, so an export that was cut off, or is repeated, adds nothing twice; of two at the
same time one is refused. Nothing is ever changed. Partitioned by the month of BillingPeriodStart. Times are UTC.

Failure policy: what can't be read or written ends the export with the commits before it in place; the next one goes on
behind them.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import ConfigError, Conflict, SpendgateError
from ledger.columns import CHARGE_COLUMNS, Kind
from ledger.export import Progress, Rows
from ledger.ports import Interval, LedgerStore

_HOUR_MS = 3_600_000
#: A record is there at the latest so long after its x_RecordedAt: a batch is stamped before it is appended.
_APPENDED_MS = 900_000
#: Hours of one commit at most: what is done again after an export was cut off.
_HOURS = 24
_NAMES = [c.name for c in CHARGE_COLUMNS]
_MONTH = _NAMES.index("BillingPeriodStart")
PARTITION = "x_BillingMonth"


def export_delta(
    store: LedgerStore, table: str | Path, now_ms: int, start_ms: int, progress: Progress = lambda _: None
) -> int:
    """Append what was recorded since the last time, up to the last hour that is over and settled; how many records.

    table: a folder or a URL that delta-rs can write. start_ms: where the first export begins.
    progress: is told how many were read so far.

    Raises:
        ConfigError: the extra is not installed, or the table has other columns or can't be written.
        Conflict: another export of this ledger wrote to the table meanwhile.
        LedgerUnavailable: the ledger can't be read.
    """
    try:
        import pyarrow
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
        from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError
    except ImportError:
        raise ConfigError("a Delta Lake table needs the extra: pip install 'spendgate[delta]'") from None
    schema, application = _schema(pyarrow), f"spendgate:{store.id()}"
    # One object from here on: a commit that came after it was read is a conflict, not a thing to append behind.
    target = DeltaTable.create(str(table), schema, mode="ignore", partition_by=[PARTITION])
    known = target.transaction_version(application)
    hour, end = (start_ms // _HOUR_MS if known is None else known + 1), (now_ms - _APPENDED_MS) // _HOUR_MS
    written = 0
    while (first := _first_hour(store, hour, end)) is not None:
        hour = min(first + _HOURS, end)
        reading = _Reading(store, first, hour, written, progress)
        data = pyarrow.RecordBatchReader.from_batches(schema, reading.batches(pyarrow, schema))
        properties = CommitProperties(app_transactions=[Transaction(application, hour - 1)])
        try:
            write_deltalake(target, data, mode="append", commit_properties=properties)
        except SchemaMismatchError as error:
            raise ConfigError(f"the table {table} has other columns: {error}") from None
        except CommitFailedError as error:
            raise Conflict(f"another export wrote to {table} meanwhile: {error}") from None
        except DeltaError as error:  # it wraps what stopped the reading
            raise reading.failure or ConfigError(f"the table {table} can't be written: {error}") from None
        written = reading.count
    return written


class _Reading:
    """The records of some hours on their way into a commit. count: of all that the export has read so far."""

    def __init__(self, store: LedgerStore, hour: int, end: int, count: int, progress: Progress) -> None:
        self._pages = _recorded(store, hour, end, _NAMES)
        self.count, self._progress = count, progress
        self.failure: SpendgateError | None = None

    def batches(self, pyarrow: Any, schema: Any) -> Iterator[Any]:
        """In the form that delta-rs takes."""
        try:
            for page in self._pages:
                columns = [list(column) for column in zip(*page, strict=True)]
                columns.append([f"{start:%Y-%m}" for start in columns[_MONTH]])
                arrays = [pyarrow.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
                yield pyarrow.RecordBatch.from_arrays(arrays, schema=schema)
                self.count += len(page)
                self._progress(self.count)
        except SpendgateError as error:
            self.failure = error
            raise


def _first_hour(store: LedgerStore, hour: int, end: int) -> int | None:
    """The first that has a record, of those from `hour` to before `end`."""
    if hour >= end:
        return None
    page = next(iter(_recorded(store, hour, end, ["x_RecordedAt"])), None)
    if page is None:
        return None
    recorded: datetime = page[0][0]
    return int(recorded.replace(tzinfo=UTC).timestamp() // 3600)


def _recorded(store: LedgerStore, hour: int, end: int, columns: list[str]) -> Iterator[Rows]:
    return store.charges(Interval(hour * _HOUR_MS, end * _HOUR_MS), (), columns, by="x_RecordedAt")


def _schema(pyarrow: Any) -> Any:
    types = {
        Kind.TEXT: pyarrow.string(),
        Kind.JSON: pyarrow.string(),
        Kind.TIME: pyarrow.timestamp("us", "UTC"),
        Kind.MONEY: pyarrow.decimal128(38, 12),
        Kind.UNIT_PRICE: pyarrow.decimal128(38, 18),
        Kind.QUANTITY: pyarrow.decimal128(38, 12),
        Kind.WHOLE: pyarrow.int64(),
    }
    fields = [pyarrow.field(c.name, types[c.kind], nullable=not c.required) for c in CHARGE_COLUMNS]
    return pyarrow.schema([*fields, pyarrow.field(PARTITION, pyarrow.string(), nullable=False)])
