"""`spendgate export`: cost records as files.

The process that owns the ledger writes the file. For standard output it writes one into a folder of this command's,
which goes with the command: what is broken off leaves nothing in the data folder.
"""

import asyncio
import contextlib
import glob
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from core.clock import SystemClock
from ledger.export import DRAFT, Format, Layout
from ledger.ports import Filter, Interval, LedgerReader
from spendgate.cli_ledger import filters_of, run_on_ledger
from spendgate.settings import Settings

_EVERY_S = 1.0
_DELTA = "delta"
_STDOUT = "-"


def export(
    out: Annotated[
        str, typer.Option(help="File, written by the ledger's process; - for standard output. Delta: a folder or URL.")
    ],
    kind: Annotated[str, typer.Option("--format", help="csv, parquet, jsonl or delta.")] = "csv",
    layout: Annotated[
        Layout | None, typer.Option(help="Which version of FOCUS names the columns; focus-1.4, if not given.")
    ] = None,
    start: Annotated[str, typer.Option("--from", help="First day or time, UTC, such as 2026-11-01.")] = "2020-01-01",
    end: Annotated[str | None, typer.Option("--to", help="End, exclusive; now, if not given.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="Only this, such as team:ml; repeat.")] = None,
) -> None:
    """Write cost records in the layout of FOCUS: CSV, Parquet, JSON lines, or append to a Delta Lake table."""
    end_ms = SystemClock().now_ms() + 1 if end is None else _epoch_ms(end, "--to")
    interval = Interval(_epoch_ms(start, "--from"), end_ms)
    if interval.end_ms <= interval.start_ms:
        raise typer.BadParameter("the interval ends before it begins", param_hint="--from")
    if kind == _DELTA:
        _refuse_for_delta({"--layout": layout, "--to": end, "--scope": scope})
        table = _table(out)
        count = run_on_ledger(lambda reader, _: reader.export_delta(table, interval.start_ms))
        typer.echo(f"{count} records appended; the newest follow in an export after their hour", err=True)
    elif kind in [f.value for f in Format]:
        filters = filters_of(scope)
        wanted = layout or Layout.FOCUS_1_4
        count = run_on_ledger(lambda reader, s: _write(reader, s, out, Format(kind), wanted, interval, filters))
        typer.echo(f"{count} records written", err=True)
    else:
        raise typer.BadParameter("must be csv, parquet, jsonl or delta", param_hint="--format")


def _refuse_for_delta(given: dict[str, object]) -> None:
    """A table has the whole of every record; leaving some out would leave them out for ever."""
    for option, value in given.items():
        if value:
            raise typer.BadParameter("does not go with --format delta", param_hint=option)


def _table(out: str) -> str:
    """As the ledger's process finds it, which runs in another folder."""
    if out == _STDOUT:
        raise typer.BadParameter("a Delta Lake table is a folder or URL", param_hint="--out")
    return out if "://" in out else str(Path(out).absolute())


async def _write(
    reader: LedgerReader,
    settings: Settings,
    out: str,
    kind: Format,
    layout: Layout,
    interval: Interval,
    filters: tuple[Filter, ...],
) -> int:
    with _target(out, settings) as path:
        telling = asyncio.create_task(_tell(path))
        try:
            count = await reader.export_to(str(path), kind, layout, interval, filters)
        finally:
            telling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await telling
        if out == _STDOUT:
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
    return count


async def _tell(path: Path) -> None:
    """How far it is, for a person."""
    while sys.stderr.isatty():
        await asyncio.sleep(_EVERY_S)
        typer.echo(f"\r{_size_bytes(path) / 1e6:,.0f} MB written", err=True, nl=False)


@contextlib.contextmanager
def _target(out: str, settings: Settings) -> Iterator[Path]:
    if out != _STDOUT:
        yield Path(out).absolute()
        return
    ledger = (settings.data_dir / "ledger").absolute()
    with _ended_by_sigterm(), tempfile.TemporaryDirectory(prefix="export-", dir=ledger) as folder:
        os.chown(folder, ledger.stat().st_uid, -1)  # root may ask a ledger that is another user's
        yield Path(folder) / "records"


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends this task as an interrupt does, with what is to be done at its end."""
    loop, task, told = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    assert task is not None

    def end() -> None:
        told.set()
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, end)
    try:
        yield
    except asyncio.CancelledError:
        if told.is_set():
            raise typer.Exit(128 + signal.SIGTERM) from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _size_bytes(path: Path) -> int:
    """Of what is written for this path; see `ledger.export`."""
    sizes = [0]
    for draft in path.parent.glob(f".{glob.escape(path.name)}.*{DRAFT}"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            sizes.append(draft.stat().st_size)
    return max(sizes)


def _epoch_ms(text: str, option: str) -> int:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("must be a date or time such as 2026-11-01", param_hint=option) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
