"""`spendgate spend`, `calls` and `compare` beside a running gateway."""

import json
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from core.clock import SystemClock
from ledger.duckdb_store import DuckDbLedger
from ledger.model import Position
from tests.ledger.events import HOUR_MS, Stream
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.ledger import wait_for_ledger
from tests.support.waiting import eventually

NAMES = ("[/red]x", "[bold]y[/bold]", ":smile:", "=1+1")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """Two calls of 30 hours ago are in its ledger, one of five hours ago, and one of each name of just now."""
    folder, now_ms = tmp_path_factory.mktemp("gateway"), SystemClock().now_ms()
    past = Stream(now_ms=now_ms - 30 * HOUR_MS)
    for at_ms in (past.now_ms, past.now_ms, now_ms - 5 * HOUR_MS):
        past.now_ms = max(past.now_ms, at_ms)
        past.settle(past.hold("past"), cost_nano=None)
    store = DuckDbLedger(folder / "data" / "ledger" / "main.duckdb", new_id="ldg_1", memory_mib=128)
    store.append(past.batch(Position()))
    store.close()
    with running_gateway(folder, SPENDGATE_LEDGER="embedded") as running:
        for name in NAMES:
            assert running.chat(agent=name).status == 200
        wait_for_ledger(running)
        yield running


def run(gateway: RunningGateway, *arguments: str) -> str:
    started = [sys.executable, "-m", "spendgate", *arguments]
    done = subprocess.run(started, env=gateway.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def as_json(gateway: RunningGateway, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(gateway, *arguments, "--json"))
    return found


@pytest.mark.parametrize(
    "command", [("spend",), ("spend", "--bucket", "day"), ("calls", "--by", "agent"), ("compare", "--by", "agent")]
)
def test_names_are_shown_as_they_are(gateway: RunningGateway, command: tuple[str, ...]) -> None:
    told = run(gateway, *command)
    assert all(name in told for name in NAMES)


def test_names_are_shown_as_they_are_in_top(gateway: RunningGateway) -> None:
    told = run(gateway, "top", "--once")
    assert all(f"agent:{name}" in told for name in NAMES)


@pytest.mark.parametrize("bucket", [(), ("--bucket", "hour")])
def test_what_is_beyond_the_top_is_summed(gateway: RunningGateway, bucket: tuple[str, ...]) -> None:
    whole = as_json(gateway, "spend", "--hours", "48", *bucket)
    cut = as_json(gateway, "spend", "--hours", "48", "--top", "1", *bucket)
    assert {row["agent"] for row in whole} == {"past", *NAMES}
    assert {row["agent"] for row in cut} == {"past", "other"}
    for column in ("costUsd", "quantity"):
        sums = [sum(Decimal(row[column]) for row in rows) for rows in (whole, cut)]
        assert sums[0] == sums[1] > 0
    others = [row for row in cut if row["agent"] == "other"]
    assert run(gateway, "spend", "--hours", "48", "--top", "1", *bucket).count("other") == len(others) > 0


def test_refused_and_downgraded_calls_say_what_they_saved(gateway: RunningGateway) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="thin", limitUsd="0.003", hardCap="1.6", softCap="0.5")
    statuses = [gateway.chat(agent="thin", maxTokens=200).status for _ in range(40)]
    wait_for_ledger(gateway)
    thin, refused = ("--scope", "agent:thin"), statuses.count(402)

    def rows() -> dict[str, dict[str, Any]]:
        return {row["outcome"]: row for row in as_json(gateway, "calls", *thin)}

    eventually(lambda: rows().get("refused", {}).get("refused") == refused > 0, "refusals are read too")
    found = rows()
    assert found["answered"]["calls"] == statuses.count(200)
    assert found["answered"]["downgraded"] > 0 and Decimal(found["answered"]["savedUsd"]) > 0
    assert Decimal(found["refused"]["notSpentUsd"]) > 0 and found["refused"]["costUsd"] == "0.00"
    (spent,) = as_json(gateway, "spend", *thin)
    assert Decimal(found["answered"]["costUsd"]) == Decimal(spent["costUsd"])


def test_a_change_is_taken_apart(gateway: RunningGateway) -> None:
    """Half the calls at the same price: it is all volume. What is new has no price to compare."""
    past = as_json(gateway, "compare", "--scope", "agent:past")
    assert len(past) > 1
    for row in past:
        before, after, by_volume = (Decimal(row[name]) for name in ("beforeUsd", "afterUsd", "volumeUsd"))
        assert before == 2 * after > 0
        assert by_volume == Decimal(row["changeUsd"]) == after - before
        assert Decimal(row["priceUsd"]) == Decimal(row["newUsd"]) == 0
    for row in as_json(gateway, "compare", "--scope", "agent:=1+1"):
        assert Decimal(row["newUsd"]) == Decimal(row["changeUsd"]) == Decimal(row["afterUsd"]) > 0
