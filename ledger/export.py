"""Cost records as files: CSV, Parquet or JSON lines, in the layout of FOCUS 1.4 or 1.2.

Records are read in pieces, so memory does not grow with them, and the file appears under its name when it is whole.
Money and prices are decimal text with all digits in CSV and JSON, and decimals in Parquet. Our columns follow FOCUS'.
"""

import csv
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import orjson

from core.values import value
from ledger.columns import FOCUS_1_4, OURS, Column, Kind
from ledger.ports import Filter, Interval, LedgerStore

#: What 1.3 and 1.4 added to 1.2, and what they took away, from where it is filled.
_AFTER_1_2 = frozenset(
    [
        "ServiceProviderName",
        "HostProviderName",
        "AllocatedMethodId",
        "AllocatedMethodDetails",
        "AllocatedResourceId",
        "AllocatedResourceName",
        "AllocatedTags",
        "ContractApplied",
        "InvoiceDetailId",
        "CommitmentProgramEligibilityDetails",
    ]
)
_ONLY_1_2 = {"ProviderName": "ServiceProviderName", "PublisherName": "ServiceProviderName"}
#: A spreadsheet takes text that begins with one of these for a formula; the last four are full-width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_MARK = "'"
_PARQUET_TYPES = {
    Kind.TEXT: "VARCHAR",
    Kind.JSON: "VARCHAR",
    Kind.TIME: "TIMESTAMP_MS",
    Kind.MONEY: "DECIMAL(38, 12)",
    Kind.UNIT_PRICE: "DECIMAL(38, 18)",
    Kind.QUANTITY: "DECIMAL(38, 12)",
    Kind.WHOLE: "BIGINT",
}

Progress = Callable[[int], None]


class Format(StrEnum):
    """Of a file."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON_LINES = "jsonl"


class Layout(StrEnum):
    """Which version of the specification names the columns."""

    FOCUS_1_4 = "focus-1.4"
    FOCUS_1_2 = "focus-1.2"


@value
class ExportAsk:
    """What to export. interval: of ChargePeriodStart. filters: as of `SpendAsk`."""

    interval: Interval
    format: Format
    layout: Layout = Layout.FOCUS_1_4
    filters: tuple[Filter, ...] = ()


#: How the name of a file ends that is still being written.
DRAFT = ".part"


def columns_of(layout: Layout) -> tuple[tuple[str, Column], ...]:
    """Names in a layout, each with the column of the ledger that fills it."""
    if layout is Layout.FOCUS_1_4:
        return tuple((c.name, c) for c in (*FOCUS_1_4, *OURS))
    by_name = {c.name: c for c in FOCUS_1_4}
    kept = [(c.name, c) for c in FOCUS_1_4 if c.name not in _AFTER_1_2]
    kept += [(name, by_name[source]) for name, source in _ONLY_1_2.items()]
    return (*kept, *((c.name, c) for c in OURS))


def export(store: LedgerStore, path: Path, ask: ExportAsk, progress: Progress = lambda _: None) -> int:
    """Write a file; how many records it has. progress: is told how many were written so far.

    It is written beside its place, under a name of its own: of two at once the last to end is there, as a whole.

    Raises:
        OSError: it can't be written; what was there under its name stays.
        LedgerUnavailable: the ledger can't be read.
    """
    columns = columns_of(ask.layout)
    pages = _pages(store, ask, [c.name for _, c in columns], progress)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}{DRAFT}")
    try:
        if ask.format is Format.PARQUET:
            count = _write_parquet(draft, columns, pages)
        else:
            write = _write_csv if ask.format is Format.CSV else _write_json_lines
            with draft.open("w", encoding="utf-8", newline="") as file:
                count = write(file, columns, pages)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return count


Columns = Sequence[tuple[str, Column]]
Rows = list[tuple[Any, ...]]


def _pages(store: LedgerStore, ask: ExportAsk, names: list[str], progress: Progress) -> Iterator[Rows]:
    written = 0
    for page in store.charges(ask.interval, ask.filters, names):
        yield page
        written += len(page)
        progress(written)


def _write_csv(file: IO[str], columns: Columns, pages: Iterable[Rows]) -> int:
    count, writer = 0, csv.writer(file)  # as RFC 4180 has it
    writer.writerow([name for name, _ in columns])
    is_text = [c.kind in (Kind.TEXT, Kind.JSON) for _, c in columns]
    for page in pages:
        for row in page:
            cells = map(text_of, row)
            writer.writerow([harmless(c) if t else c for c, t in zip(cells, is_text, strict=True)])
        count += len(page)
    return count


def _write_json_lines(file: IO[str], columns: Columns, pages: Iterable[Rows]) -> int:
    count, names = 0, [name for name, _ in columns]
    for page in pages:
        for row in page:
            values = {
                n: v if isinstance(v, int) else text_of(v) for n, v in zip(names, row, strict=True) if v is not None
            }
            file.write(orjson.dumps(values).decode() + "\n")
        count += len(page)
    return count


def _write_parquet(path: Path, columns: Columns, pages: Iterable[Rows]) -> int:
    """By DuckDB, which is here in any case, from JSON lines beside it."""
    import duckdb  # slow to load, and needed for this alone

    staged = path.with_name(f"{path.name}.jsonl")
    try:
        with staged.open("w", encoding="utf-8", newline="") as file:
            count = _write_json_lines(file, columns, pages)
        types = {name: "VARCHAR" for name, _ in columns}
        casts = ", ".join(f'"{name}"::{_PARQUET_TYPES[c.kind]} AS "{name}"' for name, c in columns)
        with duckdb.connect(config={"memory_limit": "512MiB", "threads": 1}) as db:
            source = f"read_json({_quoted(staged)}, format='newline_delimited', columns={types})"
            db.execute(f"COPY (SELECT {casts} FROM {source}) TO {_quoted(path)} (FORMAT parquet, COMPRESSION zstd)")
    finally:
        staged.unlink(missing_ok=True)
    return count


def _quoted(path: Path) -> str:
    """As text in SQL."""
    return "'" + str(path).replace("'", "''") + "'"


def text_of(cell: Any) -> str:
    """A value as text: nothing for null, decimals with all their digits and a point, times in ISO 8601 and UTC."""
    if cell is None:
        return ""
    if isinstance(cell, Decimal):
        text = f"{cell:f}"
        whole, _, rest = text.partition(".")
        return f"{whole}.{rest.rstrip('0') or '0'}"
    if isinstance(cell, datetime):
        return cell.isoformat(timespec="milliseconds") + "Z"
    return str(cell)


def harmless(cell: str) -> str:
    """Text that no spreadsheet takes for a formula: one that could be has an apostrophe before it, and so has one that
    begins with an apostrophe, so that to take the first away is to have what it was.
    """
    return _MARK + cell if cell.startswith((*_FORMULA, _MARK)) else cell
