"""The command line beside a running gateway: budgets, models, and who spends now."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from typing import Any

from tests.support.gateway import RunningGateway
from tests.support.waiting import eventually


def run(gateway: RunningGateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m", "spendgate", *arguments]
    return subprocess.run(started, env=gateway.environment, capture_output=True, text=True, timeout=60)


def as_json(gateway: RunningGateway, *arguments: str) -> Any:
    done = run(gateway, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def shown(gateway: RunningGateway, budget_id: str) -> dict[str, Any]:
    found: dict[str, Any] = gateway.request("GET", f"/api/budgets/{budget_id}", key="admin").json
    return found


def test_a_budget_is_made_changed_and_deleted(gateway: RunningGateway) -> None:
    terms = ("--limit", "2.50", "--cadence", "monthly", "--zone", "Europe/Berlin", "--hard-cap", "1.1")
    made = as_json(gateway, "budget", "create", "--scope", "team:cli", *terms, "--downgrade", "dbrx=mixtral")
    assert made == shown(gateway, made["id"])
    assert (made["limitUsd"], made["cadence"], made["hardCap"]) == ("2.50", "monthly", "1.1")
    assert made["downgrade"] == [{"from": "dbrx", "to": "mixtral"}]
    as_json(gateway, "budget", "change", made["id"], "--limit", "3", "--no-downgrade")
    as_json(gateway, "budget", "pause", made["id"])
    changed = shown(gateway, made["id"])
    assert (changed["limitUsd"], changed["paused"], changed["allowDowngrade"]) == ("3.00", True, False)
    as_json(gateway, "budget", "resume", made["id"])
    as_json(gateway, "budget", "top-up", made["id"], "--amount", "1.25", "--reason", "a launch")
    as_json(gateway, "budget", "reset", made["id"], "--reason", "a new start")
    told = run(gateway, "budget", "show", made["id"]).stdout
    assert "$3.00 monthly on team:cli" in told and "topped up by $1.25" in told and "110%" in told
    listed = as_json(gateway, "budget", "list", "--scope-type", "team")["budgets"]
    assert [b["id"] for b in listed] == [made["id"]] and len(listed[0]["resets"]) == 1
    assert made["id"] in run(gateway, "budget", "list").stdout
    assert run(gateway, "budget", "delete", made["id"], "--yes").stdout == f"deleted {made['id']}\n"
    assert gateway.request("GET", f"/api/budgets/{made['id']}", key="admin").status == 404


def test_what_is_wrong_is_named(gateway: RunningGateway) -> None:
    for arguments, named in (
        (("create", "--scope", "team:x", "--limit", "lots"), "limitUsd"),
        (("create", "--scope", "nobody", "--limit", "1"), "--scope"),
        (("create", "--scope", "team:x", "--limit", "1", "--downgrade", "dbrx=nothing"), "downgrade.0.to"),
        (("change", "no-such", "--limit", "1"), "no-such"),
        (("change", "default", "--limit", "1"), "the environment"),
        (("top-up", "default", "--amount", "-1", "--reason", "x"), "amountUsd"),
    ):
        done = run(gateway, "budget", *arguments)
        assert done.returncode == 1 and named in done.stderr, (arguments, done.stderr)
        assert "Traceback" not in done.stderr


def test_models_are_those_of_the_api(gateway: RunningGateway) -> None:
    assert as_json(gateway, "models") == gateway.request("GET", "/api/models", key="admin").json
    price = {"model": "llama-3-1-8b", "usdPerMillionTokens": {"input": "0.11"}, "reason": "a contract"}
    made = gateway.request("POST", "/api/prices", price, key="admin")
    lines = run(gateway, "models").stdout.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("databricks-meta-llama-3-1-8b-instruct"))
    assert "in force" in lines[at] and "override: a contract" in lines[at] and "0.11" in lines[at]
    assert "set aside" in lines[at + 1] and "0.15" in lines[at + 1]
    gateway.request("POST", f"/api/prices/{made.json['id']}/end", key="admin")


def test_who_spends_now(gateway: RunningGateway) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="busy", limitUsd="5")
    for _ in range(3):
        assert gateway.chat(agent="busy", maxTokens=20).status == 200
    eventually(lambda: gateway.spend("busy")["held"] == 0, "all is settled")
    found = as_json(gateway, "top", "--once", "--by", "agent")["accounts"]
    busy = next(a for a in found if a["scope"] == "agent:busy")
    spent = gateway.spend("busy")["spent"]
    assert float(busy["spentUsd"]) == spent > 0 and float(busy["usdPerHour"]) == round(spent * 60, 9)
    assert (busy["state"], busy["model"], busy["limitUsd"]) == ("Active", "databricks-dbrx-instruct", "5.000000000")
    assert "agent:busy" in run(gateway, "top", "--once").stdout


def test_it_is_drawn_anew_until_q_is_pressed(gateway: RunningGateway) -> None:
    ours, theirs = pty.openpty()
    environment = gateway.environment | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    command = [sys.executable, "-m", "spendgate", "top", "--every", "0.2"]
    top = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        drawn = read_until(ours, "q quits")
        assert gateway.chat(agent="late", maxTokens=20).status == 200
        drawn = read_until(ours, "agent:late")
        assert "Active" in drawn or "Active" in read_until(ours, "Active")
        os.write(ours, b"q")
        assert top.wait(10) == 0
    finally:
        top.kill()
        top.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    seen, until_s = "", time.monotonic() + 20
    while text not in seen and time.monotonic() < until_s:
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 65536).decode(errors="replace")
    assert text in seen, seen[-2000:]
    return seen
