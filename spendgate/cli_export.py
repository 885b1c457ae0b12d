"""`spendgate export`: cost records as files."""

import asyncio
import contextlib
import shutil
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from core.clock import SystemClock
from ledger.export import Format, Layout
from ledger.ports import Filter, Interval, LedgerReader
from spendgate.cli_ledger import filters_of, run_on_ledger
from spendgate.settings import Settings

_EVERY_S = 1.0
_DELTA = "delta"


def export(
    out: Annotated[str, typer.Option(help="File; - for standard output. With --format delta, a folder or URL.")],
    kind: Annotated[str, typer.Option("--format", help="csv, parquet, jsonl or delta.")] = "csv",
    layout: Annotated[Layout, typer.Option(help="Which version of FOCUS names the columns.")] = Layout.FOCUS_1_4,
    start: Annotated[str, typer.Option("--from", help="First day or time, UTC, such as 2026-11-01.")] = "2020-01-01",
    end: Annotated[str | None, typer.Option("--to", help="End, exclusive; now, if not given.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="Only this, such as team:ml; repeat.")] = None,
) -> None:
    """Write cost records in the layout of FOCUS: CSV, Parquet, JSON lines, or append to a Delta Lake table."""
    end_ms = SystemClock().now_ms() + 1 if end is None else _epoch_ms(end, "--to")
    interval = Interval(_epoch_ms(start, "--from"), end_ms)
    if kind == _DELTA:
        count = run_on_ledger(lambda reader, _: reader.export_delta(out, interval.start_ms))
    elif kind in [f.value for f in Format]:
        filters = filters_of(scope)
        count = run_on_ledger(lambda reader, s: _write(reader, s, out, Format(kind), layout, interval, filters))
    else:
        raise typer.BadParameter("must be csv, parquet, jsonl or delta", param_hint="--format")
    typer.echo(f"{count} records written", err=True)


async def _write(
    reader: LedgerReader,
    settings: Settings,
    out: str,
    kind: Format,
    layout: Layout,
    interval: Interval,
    filters: tuple[Filter, ...],
) -> int:
    path = _target(out, settings, kind)
    telling = asyncio.create_task(_tell(path.with_name(f".{path.name}.part")))
    try:
        count = await reader.export_to(str(path), kind, layout, interval, filters)
        if out == "-":
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
    finally:
        telling.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await telling
        if out == "-":
            path.unlink(missing_ok=True)
    return count


async def _tell(draft: Path) -> None:
    """How far it is, for a person."""
    while sys.stderr.isatty():
        await asyncio.sleep(_EVERY_S)
        typer.echo(f"\r{_size_bytes(draft) / 1e6:,.0f} MB written", err=True, nl=False)


def _target(out: str, settings: Settings, kind: Format) -> Path:
    if out != "-":
        return Path(out).absolute()
    return (settings.data_dir / "ledger" / f"export-{time.time_ns()}.{kind}").absolute()


def _size_bytes(draft: Path) -> int:
    return draft.stat().st_size if draft.exists() else 0


def _epoch_ms(text: str, option: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a date or time such as 2026-11-01", param_hint=option) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
