"""How fast events come into the ledger, and how fast it answers what pages ask, at 1, 10 and 100 million records.

    python -m bench.ledger                         # both engines; writes docs/ledger-table.md
    python -m bench.ledger --millions 1,10         # smaller
    python -m bench.ledger --only ingest
    python -m bench.ledger --only queries --engines clickhouse --millions 100 --folder /big/disk --keep

Every figure is printed when it is known. To make 100 million records takes DuckDB five minutes and 9 GB of disk,
and ClickHouse twenty-five minutes of a core and 3 GB: it packs what was copied better than what is not.

DuckDB is as the product runs it. ClickHouse is its engine as a library (chDB) behind the tests' small HTTP server,
which runs one statement at a time: its figures say what the product's side costs, not what a real server does.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.ledger.fill import DAYS, fill, opened
from bench.ledger.fill_clickhouse import fill_clickhouse
from bench.ledger.intake import BATCHES, Intake, intake, intake_from_valkey
from bench.speed.table import table
from ledger.clickhouse_store import ClickHouseLedger
from ledger.duckdb_store import DuckDbLedger
from ledger.ingest import BATCH
from ledger.ports import CallsAsk, Filter, Interval, LedgerStore, SpendAsk
from tests.support.chdb_server import chdb_server
from tests.support.stores import running_valkey

_DAY_MS = 86_400_000
_TIMES = 5
_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "ledger-table.md"
_PARTS, _ENGINES, _MILLIONS = ["ingest", "queries"], ["duckdb", "clickhouse"], [1, 10, 100]
Row = list[str]


def ingest(name: str, taking: Coroutine[Any, Any, Intake]) -> Row:
    """So many batches, from events to rows on disk."""
    load = os.getloadavg()[0]
    found = asyncio.run(taking)
    row = [name, f"{found.events_s:,.0f}", f"{found.median_events_s:,.0f}", f"{found.cpu_s:.2f}"]
    row += [f"{found.peak_mib:,.0f}", f"{load:.1f}"]
    _tell(f"{', '.join(row)}\n")
    return row


def questions(store: LedgerStore) -> dict[str, Callable[[], Any]]:
    """What pages ask, each with an interval that is not of whole hours."""
    (newest,) = store.call_list(CallsAsk(Interval(0, 2**52), (), 1))
    end_ms = newest.at_ms - 1_234
    month, day = Interval(end_ms - 30 * _DAY_MS, end_ms), Interval(end_ms - _DAY_MS, end_ms)
    one = (Filter("agent", ("agent7",)),)
    (call,) = store.call_list(CallsAsk(month, one, 1))
    account = f"agents:{datetime.fromtimestamp(end_ms / 1000, UTC):%Y-%m}:agent7"
    return {
        "spend of 30 days by agent and day of Berlin": lambda: store.spend(
            SpendAsk(month, ("agent",), "day", "Europe/Berlin")
        ),
        "spend of 30 days by agent and day of Kolkata": lambda: store.spend(
            SpendAsk(month, ("agent",), "day", "Asia/Kolkata")
        ),
        "spend of 30 days by team and model": lambda: store.spend(SpendAsk(month, ("team", "model"))),
        "spend of 90 days by week": lambda: store.spend(SpendAsk(Interval(0, end_ms), (), "week")),
        "spend of 90 days by team and week of Berlin": lambda: store.spend(
            SpendAsk(Interval(0, end_ms), ("team",), "week", "Europe/Berlin")
        ),
        "one agent's spend of a day, by hour": lambda: store.spend(SpendAsk(day, ("model",), "hour", "UTC", one)),
        "calls of 30 days by outcome": lambda: store.calls(SpendAsk(month, ("outcome",))),
        "an agent's last 50 calls": lambda: store.call_list(CallsAsk(month, one, 50)),
        "one request by its id": lambda: store.of_request(call.request_id or ""),
        "an account's burn-down": lambda: store.postings([account], month),
        "changes of state of 30 days": lambda: store.state_changes(month, None, 50),
    }


def answers(store: LedgerStore) -> dict[str, float]:
    """Median milliseconds of each question; the first time is not counted."""
    found = {}
    for name, ask in questions(store).items():
        ask()
        times = []
        for _ in range(_TIMES):
            began_s = time.perf_counter()
            ask()
            times.append((time.perf_counter() - began_s) * 1000)
        found[name] = statistics.median(times)
        _tell(f"{name}: {found[name]:,.0f} ms\n")
    return found


@contextlib.contextmanager
def clickhouse(folder: Path) -> Iterator[ClickHouseLedger]:
    """The one in this folder; empty, if there is none."""
    with chdb_server(folder) as server:
        server.execute("CREATE DATABASE IF NOT EXISTS books")
        store = ClickHouseLedger(f"clickhouse://127.0.0.1:{server.port}/books", new_id="ldg_bench")
        try:
            yield store
        finally:
            store.close()


def _in_duckdb(folder: Path, millions: list[int], *, keep: bool) -> Iterator[tuple[str, dict[str, float]]]:
    for count in millions:
        path = folder / f"{count}.duckdb"
        if path.exists():
            store = opened(path)
        else:
            began_s = time.perf_counter()
            store = fill(path, count * 1_000_000, lambda done: _tell(f"{done:,} records"))
            store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
            _tell(f"{count} million in {time.perf_counter() - began_s:.0f} s, {path.stat().st_size / 1e9:.1f} GB\n")
        yield f"DuckDB, {count} million{_load()}", answers(store)
        store.close()
        if not keep:
            path.unlink()


def _in_clickhouse(folder: Path, millions: list[int], *, keep: bool) -> Iterator[tuple[str, dict[str, float]]]:
    for count in millions:
        path = folder / f"{count}.clickhouse"
        is_there = path.exists()
        with clickhouse(path) as store:
            if not is_there:
                began_s = time.perf_counter()
                fill_clickhouse(store, count * 1_000_000, lambda done: _tell(f"{done:,} records"))
                size = store.facts()["bytes"] / 1e9
                _tell(f"{count} million in ClickHouse in {time.perf_counter() - began_s:.0f} s, {size:.1f} GB\n")
            yield f"ClickHouse (chDB), {count} million{_load()}", answers(store)
        if not keep:
            shutil.rmtree(path)


def _load() -> str:
    return f" (load {os.getloadavg()[0]:.1f})"


def _tell(text: str) -> None:
    print(f"\r{text}   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print and write the table."""
    options = _options()
    lines = _head()
    with tempfile.TemporaryDirectory(dir=options.folder) as text:
        folder = Path(text)
        if "ingest" in options.only:
            lines += _ingests(folder, options.engines)
        if "queries" in options.only:
            lines += _queries(Path(options.folder) if options.keep else folder, options)
    report = "\n\n".join(lines) + "\n"
    print(report)
    if (options.only, options.engines, options.millions) == (_PARTS, _ENGINES, _MILLIONS):
        _DOCUMENT.write_text(report)
    return 0


def _ingests(folder: Path, engines: list[str]) -> list[str]:
    rows = []
    if "duckdb" in engines:
        with contextlib.closing(DuckDbLedger(folder / "ingest.duckdb", new_id="ldg_bench")) as store:
            rows.append(ingest("DuckDB", intake(store)))
        with running_valkey() as live, contextlib.closing(DuckDbLedger(folder / "2.duckdb", new_id="ldg_2")) as store:
            rows.append(ingest("DuckDB, out of a Valkey", intake_from_valkey(store, live.url)))
    if "clickhouse" in engines:
        with clickhouse(folder / "chdb") as other:
            rows.append(ingest("ClickHouse (chDB)", intake(other)))
    head = ["engine", "events/s", "median batch, events/s", "CPU s a batch", "peak memory MiB", "load before"]
    all_of = f"in batches of {BATCH:,}, {BATCH * BATCHES:,} in all; two events make a call"
    cpu = "The CPU is that of the ledger's process; a Valkey's own comes on top"
    return [f"**Taking events in**, {all_of}. {cpu}.", table(head, rows)]


def _queries(folder: Path, options: argparse.Namespace) -> list[str]:
    columns: dict[str, dict[str, float]] = {}
    if "duckdb" in options.engines:
        columns |= _in_duckdb(folder, options.millions, keep=options.keep)
    if "clickhouse" in options.engines:
        columns |= _in_clickhouse(folder, options.millions, keep=options.keep)
    names = list(next(iter(columns.values())))
    rows = [[n, *(f"{column[n]:,.0f}" for column in columns.values())] for n in names]
    what = "milliseconds, medians of five; so many cost records, and the load average before"
    return [f"**Answering**, {what}:", table(["", *columns], rows)]


def _head() -> list[str]:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    facts = [f"- date: {now}", f"- machine: {os.cpu_count()} cores, {os.uname().machine}, {os.uname().release}"]
    facts.append(f"- load average before the start: {os.getloadavg()[0]:.2f}")
    facts.append(f"- data: 100 agents in 10 teams, three models, {DAYS} days")
    return ["# What the ledger can carry", "This page is made by `make bench-ledger`.", "\n".join(facts)]


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.ledger", description=__doc__, formatter_class=raw)
    parser.add_argument("--millions", type=_numbers, default=_MILLIONS, help="of cost records: 1,10,100")
    parser.add_argument("--only", type=_words, default=_PARTS, help="ingest or queries")
    parser.add_argument("--engines", type=_words, default=_ENGINES, help="duckdb or clickhouse")
    parser.add_argument("--folder", help="where the files are, until the end")
    parser.add_argument("--keep", action="store_true", help="what was made stays in the folder, to be asked again")
    options = parser.parse_args()
    if options.keep and not options.folder:
        parser.error("--keep needs a --folder")
    return options


def _words(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
