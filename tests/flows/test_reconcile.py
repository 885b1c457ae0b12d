"""The ledger beside the live accounts and a provider's own record, through the command line, and rebuilt from it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from core.ids import id_to_uuid
from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.ledger import assert_ledger_is_right, wait_for_ledger
from tests.support.simulated import Simulated
from tests.support.waiting import eventually


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[RunningGateway]:
    with running_gateway(tmp_path, SPENDGATE_LEDGER="embedded", SPENDGATE_LEASE_S="1") as running:
        yield running


def simulator_of(gateway: RunningGateway) -> Simulated:
    return Simulated(gateway.simulator_url or "", gateway.process)


def command(environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spendgate", *words], env=environment, capture_output=True, text=True, timeout=60
    )


def reconciled(gateway: RunningGateway, *words: str) -> dict[str, Any]:
    databricks = {"DATABRICKS_BASE_URL": gateway.simulator_url or "", "DATABRICKS_API_KEY": "simulated"}
    done = command(gateway.environment | databricks, "reconcile", "--json", *words)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (0 if found["clean"] else 1)
    return found


def test_everything_agrees(gateway: RunningGateway):
    for number in range(6):
        assert gateway.chat(agent="a", stream=number == 0).status == 200
    wait_for_ledger(gateway)
    found = reconciled(gateway, "--databricks", "wh-1")
    assert found["clean"] and found["adjustments"] == []
    (model,) = found["models"].values()
    assert (model["callsHere"], model["callsThere"], model["captureRate"]) == (6, 6, 1.0)
    assert model["costHereNano"] == model["costThereNano"] == bill_nano(simulator_of(gateway).bill(recent=10))


def test_a_call_whose_end_nobody_saw_is_adjusted_once(gateway: RunningGateway):
    """Charged in full when its worker died; the provider knows what it came to."""
    simulator = simulator_of(gateway)
    simulator.set_fault("*", fault="truncated", times=1)
    gateway.chat(agent="a", maxTokens=400)
    gateway.chat(agent="a")
    wait_for_ledger(gateway)
    before = reconciled(gateway, "--databricks", "wh-1")
    assert not before["clean"]
    (adjustment,) = before["adjustments"]
    assert adjustment["deltaNano"] < 0
    applied = reconciled(gateway, "--databricks", "wh-1", "--apply")
    assert applied["applied"] == 1
    assert_ledger_is_right(gateway)
    after = reconciled(gateway, "--databricks", "wh-1")
    assert after["clean"], after
    assert gateway.spend("a")["spent"] * 10**9 == pytest.approx(bill_nano(simulator.bill(recent=10)), abs=1)


def test_calls_go_on_meanwhile(gateway: RunningGateway):
    """What is in flight, or on its way into the ledger, is neither drift nor unknown."""
    stop, failed = threading.Event(), list[int]()

    def drive() -> None:
        while not stop.is_set():
            status = gateway.chat(agent="a").status
            if status != 200:
                failed.append(status)

    drivers = [threading.Thread(target=drive) for _ in range(3)]
    for driver in drivers:
        driver.start()
    try:
        found = [reconciled(gateway, "--databricks", "wh-1") for _ in range(3)]
    finally:
        stop.set()
        for driver in drivers:
            driver.join()
    assert not failed
    assert [f for f in found if not f["clean"]] == []
    assert [sum(m["callsThere"] for m in f["models"].values()) > 0 for f in found] == [True] * 3


def test_calls_are_compared_at_the_price_that_a_person_set(gateway: RunningGateway):
    rates = {"input": "7", "output": "11"}
    price = {"model": "dbrx", "usdPerMillionTokens": rates, "reason": "a test"}
    assert gateway.request("POST", "/api/prices", price, key="admin").status == 201
    set_s = time.time()
    eventually(lambda: time.time() > set_s + 1, "the provider's record, of whole seconds, tells them apart")
    simulator = simulator_of(gateway)
    simulator.set_fault("*", fault="truncated", times=1)
    gateway.chat(agent="a", maxTokens=400)
    wait_for_ledger(gateway)
    lost = next(c for c in simulator.bill(recent=10)["client_request_ids"] if "dbrx" in c["model"])
    (adjustment,) = reconciled(gateway, "--databricks", "wh-1")["adjustments"]
    assert adjustment["costNano"] == lost["prompt_tokens"] * 7_000 + lost["completion_tokens"] * 11_000


def test_helicones_export(gateway: RunningGateway, tmp_path: Path):
    answers = [gateway.chat(agent="a").json for _ in range(2)]
    wait_for_ledger(gateway)
    rows = []
    for number, answer in enumerate(answers):
        hold_id = "hld_" + answer["requestId"].removeprefix("req_")
        usage = {"prompt_tokens": answer["usage"]["inputTokens"], "completion_tokens": answer["usage"]["outputTokens"]}
        cost = {"cost_usd": 0.5} if number else {}
        at = datetime.now(UTC).isoformat()
        rows.append({"request_id": id_to_uuid(hold_id), "request_created_at": at, "model": "dbrx"} | usage | cost)
    rows.append(rows[0] | {"request_id": "0b0e6e0c-6f6f-4c37-9d3f-2a5b7a1d9b11"})
    export = tmp_path / "export.jsonl"
    export.write_text("\n".join(map(json.dumps, rows)))
    found = reconciled(gateway, "--helicone", str(export))
    assert found["unknown"] == ["0b0e6e0c-6f6f-4c37-9d3f-2a5b7a1d9b11"]
    (adjustment,) = found["adjustments"]
    assert adjustment["costNano"] == 500_000_000
    export.write_text('{"model": "dbrx"}')
    refused = command(gateway.environment, "reconcile", "--helicone", str(export))
    assert refused.returncode == 1 and "line 1" in refused.stderr


def test_live_accounts_that_drift_are_named(gateway: RunningGateway):
    gateway.chat(agent="a")
    wait_for_ledger(gateway)
    assert reconciled(gateway)["clean"]
    client = redis.Redis.from_url(gateway.store_url())
    (account,) = list(client.keys("sg:{main}:a:*"))
    client.hincrby(account, "spent", 5)
    found = reconciled(gateway)
    assert [d["liveNano"] - d["ledgerNano"] for d in found["accounts"]] == [5]
    client.hincrby(account, "spent", -5)
    client.close()


def test_what_is_asked_on_the_command_line(gateway: RunningGateway):
    answer = gateway.chat(agent="a").json
    wait_for_ledger(gateway)
    (row,) = json.loads(command(gateway.environment, "spend", "--json", "--by", "agent", "--by", "model").stdout)
    assert (row["agent"], row["model"]) == ("a", answer["model"])
    assert float(row["costUsd"]) == pytest.approx(answer["cost"])
    hourly = command(gateway.environment, "spend", "--bucket", "hour", "--zone", "Asia/Kolkata").stdout
    assert hourly.startswith("from, Asia/Kolkata") and re.search(r":00 +a ", hourly)
    wrong = command(gateway.environment, "spend", "--zone", "Mars")
    assert wrong.returncode == 2 and "must be an IANA time zone" in wrong.stderr
    told = command(gateway.environment, "explain", answer["requestId"])
    assert told.returncode == 0 and "settle" in told.stdout and "spent then" in told.stdout
    assert command(gateway.environment, "explain", "req_none").returncode == 1
    told = command(gateway.environment, "explain", answer["requestId"], "--json")
    assert json.loads(told.stdout) == gateway.request("GET", f"/api/explain/{answer['requestId']}", key="admin").json
    out = Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "out.csv"
    done = command(gateway.environment, "export", "--out", str(out), "--scope", "agent:a")
    assert done.returncode == 0 and "2 records written" in done.stderr, done.stderr
    printed = command(gateway.environment, "export", "--out", "-", "--scope", "agent:a").stdout
    assert printed.splitlines() == out.read_text().splitlines()
    assert printed.startswith("BilledCost,EffectiveCost,") and printed.count(answer["model"]) >= 2
    refused = command(gateway.environment, "export", "--out", "/nowhere/x.csv")
    assert refused.returncode == 1 and "can't be written" in refused.stderr
    facts = json.loads(command(gateway.environment, "ledger", "facts", "--json").stdout)
    assert facts["rows"]["calls"] == 1
    names = command(gateway.environment, "ledger", "readers").stdout
    assert names.count("archive:") == names.count("ledger:") == 1
    assert command(gateway.environment, "ledger", "forget-reader", "nobody").returncode == 1


def test_everything_but_the_ledger_is_lost(gateway: RunningGateway, tmp_path: Path):
    for number in range(5):
        gateway.chat(agent=f"a{number % 2}")
    gateway.put_budget(id="kept", scopeType="agent", scopeKey="a9", limitUsd="3")
    assert_ledger_is_right(gateway)
    spent = [gateway.spend(f"a{n}")["spent"] for n in range(2)]
    eventually(lambda: gateway.stop() == 0, "it stops")
    data = Path(gateway.environment["SPENDGATE_DATA_DIR"])
    shutil.rmtree(data / "valkey")
    shutil.rmtree(data / "events")
    assert "the ledger" not in command(gateway.environment, "spend").stderr, "it is read without its owner"
    done = command(gateway.environment, "ledger", "restore-copy")
    assert done.returncode == 0, done.stderr
    assert command(gateway.environment, "ledger", "restore-copy").returncode == 1, "not over a copy that there is"
    own = {k: v for k, v in gateway.environment.items() if k.startswith(("SPENDGATE_", "BUDGET_"))}
    own.pop("SPENDGATE_DATA_DIR")
    with running_gateway(tmp_path, **own) as again:
        eventually(lambda: again.chat(agent="late").status == 200, "it is rebuilt and opens")
        assert [again.spend(f"a{n}")["spent"] for n in range(2)] == spent
        assert again.request("GET", "/api/budgets/kept", key="admin").json["limitUsd"] == "3.00"
        assert_ledger_is_right(again)


def test_a_ledger_that_is_off_says_so(tmp_path: Path):
    environment = os.environ | {"SPENDGATE_LEDGER": "off", "SPENDGATE_DATA_DIR": str(tmp_path)}
    done = command(environment, "spend")
    assert done.returncode == 1 and "switched off" in done.stderr
