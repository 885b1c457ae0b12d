"""`spendgate export` against a running gateway, whose ledger another process owns."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable

from core.clock import SystemClock, iso_utc
from ledger.duckdb_store import DuckDbLedger
from ledger.export import Format, Layout, columns_of
from ledger.model import Position
from ledger.records import batch_of
from tests.ledger.events import HOUR_MS, everything
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

_ALL = ("--from", "2020-01-01", "--to", "2040-01-01")
#: Asks what the command asks, and stops the ledger's process before it can write. Shells start what they put into the
#: background with SIGINT ignored.
_OWNER_STANDS_STILL = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from spendgate.ledger_client import LedgerClient
owner, facts = int(sys.argv.pop(1)), LedgerClient.facts
async def stop_after(self):
    found = await facts(self)
    os.kill(owner, signal.SIGSTOP)
    return found
LedgerClient.facts = stop_after
from spendgate.cli import app
app()
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With records of hours ago in its ledger."""
    folder = tmp_path_factory.mktemp("gateway")
    store = DuckDbLedger(folder / "data" / "ledger" / "main.duckdb", new_id="ldg_1", memory_mib=128)
    store.append(batch_of(everything().events, [], Position(), "ep_1", SystemClock().now_ms() - 5 * HOUR_MS))
    store.close()
    with running_gateway(folder, SPENDGATE_LEDGER="embedded") as running:
        eventually(lambda: running.ledger_pid() is not None, "the ledger has a process")
        yield running


def folder_of(gateway: RunningGateway) -> Path:
    return Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "ledger"


def spendgate(gateway: RunningGateway, cwd: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    words = (sys.executable, "-m", "spendgate", "export", *words)
    return subprocess.run(words, env=gateway.environment, cwd=cwd, capture_output=True, timeout=60)


def rows_of(raw: bytes, kind: Format, folder: Path) -> list[dict[str, Any]]:
    if kind is Format.CSV:
        return list(csv.DictReader(raw.decode().splitlines(keepends=True)))
    if kind is Format.JSON_LINES:
        return [json.loads(line) for line in raw.splitlines()]
    (folder / "read.parquet").write_bytes(raw)
    found = duckdb.read_parquet(str(folder / "read.parquet"))
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def cost_of(rows: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(row["EffectiveCost"]) + Decimal(row["x_RoundingCost"]) for row in rows), Decimal(0))


def posted_usd() -> Decimal:
    deltas = (int(fields.get("delta_nano", 0)) for _, fields in everything().events if fields["type"] != "hold")
    return Decimal(sum(deltas)) / 10**9


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("kind", list(Format))
def test_a_file_and_standard_output_have_every_dollar(
    gateway: RunningGateway, tmp_path: Path, kind: Format, layout: Layout
):
    words = ("--format", kind, "--layout", layout, *_ALL)
    written = spendgate(gateway, tmp_path, *words, "--out", "here")
    assert written.returncode == 0, written.stderr
    raw = (tmp_path / "here").read_bytes()
    rows = rows_of(raw, kind, tmp_path)
    assert f"{len(rows)} records written" in written.stderr.decode()
    assert cost_of(rows) == posted_usd() != 0
    assert set(rows[0]) <= {name for name, _ in columns_of(layout)}
    printed = spendgate(gateway, tmp_path, *words, "--out", "-")
    assert printed.returncode == 0 and rows_of(printed.stdout, kind, tmp_path) == rows
    assert list(folder_of(gateway).glob("*export*")) == []


def test_a_delta_table_is_where_the_command_runs(gateway: RunningGateway, tmp_path: Path):
    since = ("--from", iso_utc(SystemClock().now_ms() - 24 * HOUR_MS))
    for _ in range(2):
        done = spendgate(gateway, tmp_path, "--format", "delta", *since, "--out", "table")
        assert done.returncode == 0, done.stderr
    assert "0 records appended" in done.stderr.decode()
    assert cost_of(DeltaTable(str(tmp_path / "table")).to_pyarrow_table().to_pylist()) == posted_usd()


@pytest.mark.parametrize(
    "words", [("--to", "2030-01-01"), ("--scope", "agent:a"), ("--layout", "focus-1.2"), ("--out", "-")]
)
def test_what_a_delta_table_can_not_have(gateway: RunningGateway, tmp_path: Path, words: tuple[str, str]):
    done = spendgate(gateway, tmp_path, "--format", "delta", "--from", "2026-01-01", "--out", "table", *words)
    assert done.returncode == 2 and words[0] in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_an_interval_that_ends_before_it_begins(gateway: RunningGateway, tmp_path: Path):
    done = spendgate(gateway, tmp_path, "--from", "2026-12-01", "--to", "2026-11-01", "--out", "x.csv")
    assert done.returncode == 2 and "before it begins" in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_that_is_broken_off_leaves_nothing(gateway: RunningGateway, tmp_path: Path, how: signal.Signals, code: int):
    owner, folder = gateway.ledger_pid(), folder_of(gateway)
    assert owner
    words = [sys.executable, "-c", _OWNER_STANDS_STILL, str(owner), "export", *_ALL, "--out", "-"]
    with subprocess.Popen(words, env=gateway.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            eventually(lambda: any(folder.glob("export-*")), "it has a place to write to")
            process.send_signal(how)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
            os.kill(owner, signal.SIGCONT)
    assert process.returncode == code, told
    assert spendgate(gateway, tmp_path, "--out", "after.csv").returncode == 0, "the owner goes on"
    assert list(folder.glob("*export*")) == []
