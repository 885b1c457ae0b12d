"""Cost records as a Delta Lake table, for lakehouses; needs the extra `delta`.

Whole hours of x_RecordedAt are appended, in one commit together with the number of the last hour as the transaction of
this ledger. A commit is there or not, so an export that was cut off, or is repeated, adds nothing twice. Nothing is
ever changed. Partitioned by the month of BillingPeriodStart.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.errors import ConfigError
from ledger.columns import CHARGE_COLUMNS, Kind
from ledger.export import Progress
from ledger.ports import Interval, LedgerStore

_HOUR_MS = 3_600_000
#: Hours of one commit at most, which bounds memory.
_HOURS = 6
PARTITION = "x_BillingMonth"


def export_delta(
    store: LedgerStore, table: str | Path, now_ms: int, start_ms: int, progress: Progress = lambda _: None
) -> int:
    """Append what was recorded since the last time, up to the last whole hour; how many records.

    table: a folder or a URL that delta-rs can write. start_ms: where the first export begins.

    Raises:
        ConfigError: the extra is not installed, or the table has other columns.
        LedgerUnavailable: the ledger can't be read.
    """
    try:
        import pyarrow
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
        from deltalake.exceptions import SchemaMismatchError
    except ImportError:
        raise ConfigError("a Delta Lake table needs the extra: pip install 'spendgate[delta]'") from None
    application = f"spendgate:{store.id()}"
    known = None
    if DeltaTable.is_deltatable(str(table)):
        known = DeltaTable(str(table)).transaction_version(application)
    hour, end = (start_ms // _HOUR_MS if known is None else known + 1), now_ms // _HOUR_MS
    whole = Interval(hour * _HOUR_MS, end * _HOUR_MS)
    first = next(iter(store.charges(whole, (), ["x_RecordedAt"], by="x_RecordedAt")), None)
    if first is None:
        return 0
    hour = max(hour, int(first[0][0].replace(tzinfo=UTC).timestamp()) * 1000 // _HOUR_MS)
    written = 0
    while hour < end:
        last = min(hour + _HOURS, end)
        rows = [row for page in _recorded(store, hour, last) for row in page]
        if rows or last == end:
            data = pyarrow.Table.from_pylist([_record(row) for row in rows], schema=_schema(pyarrow))
            properties = CommitProperties(app_transactions=[Transaction(application, last - 1)])
            try:
                write_deltalake(str(table), data, mode="append", partition_by=[PARTITION], commit_properties=properties)
            except SchemaMismatchError as error:
                raise ConfigError(f"the table {table} has other columns: {error}") from None
        written += len(rows)
        progress(written)
        hour = last
    return written


def _recorded(store: LedgerStore, hour: int, last: int) -> Iterable[list[tuple[Any, ...]]]:
    interval = Interval(hour * _HOUR_MS, last * _HOUR_MS)
    return store.charges(interval, (), [c.name for c in CHARGE_COLUMNS], by="x_RecordedAt")


def _record(row: tuple[Any, ...]) -> dict[str, Any]:
    record = {c.name: v for c, v in zip(CHARGE_COLUMNS, row, strict=True)}
    for column in CHARGE_COLUMNS:
        at = record[column.name]
        if isinstance(at, datetime):
            record[column.name] = at.replace(tzinfo=UTC)
    record[PARTITION] = f"{record['BillingPeriodStart']:%Y-%m}"
    return record


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
