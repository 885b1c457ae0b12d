"""A dry run says what the gateway then does, in every state of a budget, and leaves no trace."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest

from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.ledger import wait_for_ledger
from tests.support.waiting import eventually

LIMIT_USD = 0.003


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with running_gateway(SPENDGATE_LEDGER="embedded") as running:
        yield running


def body(max_tokens: int) -> dict[str, Any]:
    return {"model": "dbrx", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": max_tokens}


def dry_run(gateway: RunningGateway, agent: str, max_tokens: int = 300) -> Any:
    call = {name: given for name, given in body(max_tokens).items() if name != "max_tokens"}
    call |= {"scopes": [f"agent:{agent}"], "maxTokens": max_tokens}
    answer = gateway.request("POST", "/api/simulate", {"call": call}, key="admin")
    assert answer.status == 200, answer.body
    return answer.json["call"]


def real_call(gateway: RunningGateway, agent: str, max_tokens: int = 300) -> Answer:
    raw = json.dumps(body(max_tokens), separators=(",", ":")).encode()
    scope = {"X-Budget-Scope-Type": "agent", "X-Budget-Scope-Key": agent}
    return gateway.request("POST", "/v1/chat/completions", raw, headers=scope)


def last_hold_usd(gateway: RunningGateway) -> float:
    events: list[dict[str, str]] = []
    after = None
    while True:
        path = "/api/events?limit=1000" + (f"&after={after}" if after else "")
        page = gateway.request("GET", path, key="admin").json
        if not page["events"]:
            return int([e for e in events if e["type"] == "hold"][-1]["amount_nano"]) / 1e9
        events, after = events + page["events"], page["next"]


def spend_up_to(gateway: RunningGateway, agent: str, usd: float) -> None:
    """Money from elsewhere brings the account exactly there."""
    given = {"scopeType": "agent", "scopeKey": agent, "cost": f"{usd:.9f}", "requestId": f"{agent}-{usd}"}
    assert gateway.request("POST", "/webhook/helicone", given).status == 204


STATES = {
    "Active": (0.0, 300, "served"),
    "Warned": (0.0026, 20, "served"),
    "Degraded": (0.0031, 20, "downgraded"),
    "Stopped": (0.0048, 20, "refused"),
    "tight": (0.0029, 2000, "shortened"),
    "no room": (0.0047, 300, "refused"),
}


@pytest.mark.parametrize("name", STATES)
def test_it_is_what_then_happens(gateway: RunningGateway, name: str):
    spent, max_tokens, outcome = STATES[name]
    agent = name.replace(" ", "-").lower()
    gateway.put_budget(scopeType="agent", scopeKey=agent, limitUsd=str(LIMIT_USD), hardCap="1.6", softCap="0.5")
    if spent:
        spend_up_to(gateway, agent, spent)
    before = gateway.spend(agent)
    told = dry_run(gateway, agent, max_tokens)
    assert dry_run(gateway, agent, max_tokens)["outcome"] == told["outcome"] == outcome
    assert gateway.spend(agent) == before, "nothing is held or spent by it"
    (account,) = told["accounts"]
    assert account["decides"] and (account["spent"], account["held"]) == (before["spent"], before["held"])
    assert (account["limit"], account["hardLimit"]) == (before["limit"], before["hardLimit"])
    done = real_call(gateway, agent, max_tokens)
    assert done.status == told["status"]
    if done.status == 200:
        assert account["state"] == before["state"]
        assert done.headers["x-model-served"] == told["modelServed"]
        assert unquote(done.headers.get("x-downgrade-reason", "")) == (told["why"] or "")
        assert last_hold_usd(gateway) == told["ceiling"]
    else:
        error = done.json["error"]
        assert (error["code"], error["message"]) == (told["code"], told["why"])
        assert float(error["neededUsd"]) == told["needed"]
        assert told["modelServed"] is None and told["ceiling"] is None


def test_whose_call_it_would_be(gateway: RunningGateway):
    gateway.put_budget(scopeType="team", scopeKey="keyed", limitUsd="1")
    made = gateway.request(
        "POST",
        "/api/keys",
        {"name": "x", "role": "agent", "scopes": ["team:keyed"], "mayName": ["user:*"]},
        key="admin",
    ).json
    call = {"keyId": made["id"], "scopes": ["user:ann"], "inputTokens": 1000, "maxTokens": 10}
    told = gateway.request("POST", "/api/simulate", {"call": call}, key="admin").json["call"]
    assert [a["scope"] for a in told["accounts"]] == ["team:keyed"]
    assert "4,000 bytes" in told["assumptions"][1]
    refused = gateway.request("POST", "/api/simulate", {"call": call | {"scopes": ["agent:a"]}}, key="admin")
    assert refused.status == 403 and "may not spend as agent:a" in refused.json["error"]["message"]
    unknown = gateway.request("POST", "/api/simulate", {"call": call | {"keyId": "nobody"}}, key="admin")
    assert (unknown.status, unknown.json["error"]["field"]) == (400, "keyId")


def test_what_no_budget_covers_and_what_is_malformed(gateway: RunningGateway):
    told = gateway.request("POST", "/api/simulate", {"call": {"prompt": "Hi", "scopes": ["team:bare"]}}, key="admin")
    assert (told.json["call"]["code"], told.json["call"]["accounts"]) == ("no_budget", [])
    for call, field in (
        ({"prompt": "x", "scopes": ["bare"]}, "scopes"),
        ({"prompt": "x", "tools": [{"type": "web"}]}, "tools[0].type"),
        ({"prompt": "x", "maxTokens": 0}, "call.maxTokens"),
        ({"prompt": "x", "huh": 1}, "call.huh"),
    ):
        answer = gateway.request("POST", "/api/simulate", {"call": call}, key="admin")
        assert (answer.status, answer.json["error"]["field"]) == (400, field)
    gone = gateway.request("POST", "/api/simulate", {"call": {"prompt": "x", "model": "none"}}, key="admin")
    assert gone.status == 404
    assert gateway.request("POST", "/api/simulate", {"call": {"prompt": "x"}}, key="agent").status == 403


def replayed(gateway: RunningGateway, **spec: Any) -> Any:
    answer = gateway.request("POST", "/api/simulate", {"replay": spec}, key="admin")
    assert answer.status == 200, answer.body
    return answer.json["replay"]


def test_the_past_under_the_same_limits_is_the_past(gateway: RunningGateway):
    """Calls one after another through every state of a budget, some of them refused."""
    made = gateway.put_budget(scopeType="agent", scopeKey="replayed", limitUsd="0.003", hardCap="1.6", softCap="0.5")
    outcomes = []
    for _ in range(40):
        outcomes.append(real_call(gateway, "replayed", 200))
        gateway.spend("replayed")  # waits until it is settled
    served = [a for a in outcomes if a.status == 200]
    downgraded = [a for a in served if "x-downgrade-reason" in a.headers]
    refused = [a for a in outcomes if a.status == 402]
    assert downgraded and refused and len(served) + len(refused) == 40
    wait_for_ledger(gateway)
    whole = {"spent": gateway.spend("replayed")["spent"], "calls": len(served), "downgraded": len(downgraded)}
    whole["refused"] = len(refused)
    eventually(lambda: replayed(gateway, budgetId=made["id"], days=2)["rowsRead"] == 40, "the ledger has them")
    same = replayed(gateway, budgetId=made["id"], days=2)
    assert same["total"] == {"actual": whole, "simulated": whole, "saved": 0}
    assert same["complete"] and sum(day["actual"]["calls"] for day in same["days"]) == len(served)
    half = replayed(gateway, budgetId=made["id"], changes={"limitUsd": "0.0015", "downgrade": [], "hardCap": 1})
    assert half["against"]["limitUsd"] == "0.003" and half["budget"]["limitUsd"] == "0.0015"
    assert half["total"]["simulated"]["downgraded"] == 0 and half["total"]["simulated"]["spent"] <= 0.0015
    assert half["total"]["simulated"]["refused"] > len(refused) and half["total"]["saved"] > 0
    spec = {"scopeType": "agent", "scopeKey": "replayed", "limitUsd": 1}
    free = replayed(gateway, budget=spec, models=[{"from": "*", "to": "mixtral"}])
    assert free["total"]["simulated"]["calls"] == len(served), "what its own budget refused stays refused"
    assert free["total"]["simulated"]["downgraded"] == len(served) and free["total"]["saved"] > 0
    assert free["against"] is None and any("refused" in text for text in free["assumptions"])


def command(gateway: RunningGateway, *arguments: str) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m", "spendgate", "simulate", *arguments]
    return subprocess.run(started, env=gateway.environment, capture_output=True, text=True, timeout=60)


def test_the_command_says_the_same(gateway: RunningGateway):
    made = gateway.put_budget(scopeType="agent", scopeKey="typed", limitUsd="0.01")
    for _ in range(3):
        real_call(gateway, "typed", 50)
        gateway.spend("typed")
    wait_for_ledger(gateway)
    call = command(gateway, "call", "--scope", "agent:typed", "--model", "dbrx", "--input-tokens", "9", "--json")
    asked = {"scopes": ["agent:typed"], "model": "dbrx", "inputTokens": 9}
    told = gateway.request("POST", "/api/simulate", {"call": asked}, key="admin").json["call"]
    assert json.loads(call.stdout) | {"at": ""} == told | {"at": ""}
    replay = command(gateway, "replay", "--budget", made["id"], "--limit", "0.0001", "--no-downgrade", "--json")
    changes = {"limitUsd": "0.0001", "downgrade": []}
    same = replayed(gateway, budgetId=made["id"], changes=changes)
    moving = {"tookMs": 0, "to": ""}
    assert json.loads(replay.stdout) | moving == same | moving
    assert same["total"]["simulated"]["refused"] == 3
    read = command(gateway, "replay", "--scope", "agent:typed", "--limit", "1", "--model", "*=mixtral", "--days", "1")
    assert "in all" in read.stdout and "same tokens" in read.stdout, read.stderr
    assert "decides" in command(gateway, "call", "--scope", "agent:typed", "--prompt", "Hi").stdout
    wrong = command(gateway, "replay", "--budget", "none")
    assert (wrong.returncode, wrong.stderr) == (1, "spendgate: there is no budget none\n")
    for named in ((), ("--budget", "default", "--scope", "agent:typed", "--limit", "1")):
        wrong = command(gateway, "replay", *named)
        assert wrong.returncode == 2 and "--scope for a new one" in wrong.stderr


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "replay.budgetId"),
        ({"budgetId": "nothing"}, None),
        ({"budget": {"scopeType": "agent", "scopeKey": "a"}}, "limitUsd"),
        ({"budget": {"scopeType": "agent", "scopeKey": "a", "limitUsd": "x"}}, "limitUsd"),
        ({"budget": {"scopeType": "agent", "scopeKey": "a", "limitUsd": 1, "downgrade": [{"from": "*", "to": "x"}]}},
         "downgrade.0.to"),
        ({"budget": {"scopeType": "agent", "scopeKey": "a", "limitUsd": 1}, "models": [{"from": "x", "to": "dbrx"}]},
         "replay.models.0.from"),
        ({"budget": {"scopeType": "agent", "scopeKey": "a", "limitUsd": 1}, "from": "yesterday"}, "replay.from"),
        ({"budget": {"scopeType": "agent", "scopeKey": "a", "limitUsd": 1}, "from": "2026-11-20", "to": "2026-11-20"},
         "replay.from"),
        ({"budget": {"scopeType": "agent", "scopeKey": "a", "limitUsd": 1}, "days": 0}, "replay.days"),
    ],
)  # fmt: skip
def test_what_can_not_be_replayed(gateway: RunningGateway, spec: dict[str, Any], field: str | None):
    answer = gateway.request("POST", "/api/simulate", {"replay": spec}, key="admin")
    assert answer.status == (400 if field else 404)
    assert answer.json["error"].get("field") == field


def test_one_of_the_two_is_asked(gateway: RunningGateway):
    for body in ({}, {"call": {"prompt": "x"}, "replay": {"budgetId": "default"}}):
        assert gateway.request("POST", "/api/simulate", body, key="admin").json["error"]["field"] == "call"
