"""The states of a budget, the ladder, and changes of budgets, seen from outside."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated

DBRX, MIXTRAL = "databricks-dbrx-instruct", "databricks-mixtral-8x7b-instruct"
LLAMA = "databricks-meta-llama-3-1-8b-instruct"
TOOLS = [{"name": n, "parameters": {"type": "object", "properties": {}}} for n in ("search", "clock")]


def drive(gateway: RunningGateway, agent: str, **fields: object) -> list[Answer]:
    """Call until the refusal, which is the last answer."""
    answers: list[Answer] = []
    while not answers or answers[-1].status == 200:
        answers.append(gateway.chat("Say something", agent=agent, **{"maxTokens": 100} | fields))
        assert len(answers) < 100
    return answers


def states(answers: list[Answer]) -> list[str]:
    """The states in the order in which they were entered."""
    seen = [a.headers["x-budget-state"] for a in answers]
    return [s for i, s in enumerate(seen) if i == 0 or s != seen[i - 1]]


def test_from_active_to_a_refusal(gateway: RunningGateway, simulator: Simulated) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="all-states", limitUsd="0.003", allowSmallerMaxTokens=False)
    answers = drive(gateway, "all-states")
    assert states(answers) == ["Active", "Warned", "Degraded"]
    assert [a.status for a in answers[:-1]] == [200] * (len(answers) - 1) and answers[-1].status == 402
    served = [a.json["model"] for a in answers[:-1]]
    assert served == sorted(served) and set(served) == {DBRX, MIXTRAL}, "DBRX first, then Mixtral, no flapping"
    first_mixtral = answers[served.index(MIXTRAL)]
    assert first_mixtral.json["why"].startswith("Degraded: agent:all-states is at 1")
    error = answers[-1].json["error"]
    assert error["type"] == "budget_exceeded" and error["scope"] == "agent:all-states"
    assert float(error["spentUsd"]) + float(error["neededUsd"]) > float(error["hardLimitUsd"]) == 0.0036
    billed = bill_nano(simulator.bill(recent=10_000), agent="all-states")
    assert billed == round(gateway.spend("all-states")["spent"] * 10**9)
    events = [e for e in assert_books_are_right(gateway) if e["type"] == "state" and "all-states" in e["account"]]
    assert [(e["from"], e["to"]) for e in events] == [("0", "1"), ("1", "2")], "each change is one event"
    for event in events:
        assert event["cause"].startswith("hld_") and int(event["spent_nano"]) > 0


def test_an_answer_is_shortened_before_the_model_is_changed(gateway: RunningGateway) -> None:
    gateway.put_budget(
        scopeType="agent", scopeKey="short", limitUsd="0.001", hardCap=1, minOutputTokens=20, downgrade=[]
    )
    answers = drive(gateway, "short", maxTokens=400)
    shortened = [a for a in answers[:-1] if (a.json["why"] or "").startswith("Shortened: max_tokens 400 -> ")]
    assert shortened and all(a.json["model"] == DBRX for a in answers[:-1])
    assert all(a.json["usage"]["outputTokens"] < 400 for a in shortened)


def test_downgrades_chain(gateway: RunningGateway) -> None:
    rules = [{"from": "dbrx", "to": "mixtral"}, {"from": "mixtral", "to": "llama-3-1-8b"}]
    gateway.put_budget(
        scopeType="agent", scopeKey="chain", limitUsd="0.001", downgrade=rules, allowSmallerMaxTokens=False
    )
    served = [a.json["model"] for a in drive(gateway, "chain")[:-1]]
    assert [m for i, m in enumerate(served) if i == 0 or m != served[i - 1]][-1] == LLAMA
    assert served[0] == DBRX and MIXTRAL in served


def test_a_degraded_call_loses_its_disabled_tools(gateway: RunningGateway) -> None:
    gateway.put_budget(
        scopeType="agent", scopeKey="tools", limitUsd="0.001", hardCap=100, disabledTools=["search"], softCap=0.5
    )
    first = gateway.chat(agent="tools", tools=TOOLS, maxTokens=50)
    assert first.json["toolCalls"][0]["function"]["name"] == "search" and "x-tools-dropped" not in first.headers
    while gateway.chat(agent="tools", maxTokens=200).headers["x-budget-state"] != "Degraded":
        pass
    later = gateway.chat(agent="tools", tools=TOOLS, maxTokens=50)
    assert later.headers["x-tools-dropped"] == "search"
    assert later.json["toolCalls"][0]["function"]["name"] == "clock"


def test_the_worst_of_the_chain_decides(gateway: RunningGateway) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="rich", limitUsd="100")
    gateway.put_budget(scopeType="team", scopeKey="poor", limitUsd="0.0000001")
    headers = {"X-Budget-Scopes": "team:poor"}
    body = {"prompt": "Hi", "scopeType": "agent", "scopeKey": "rich"}
    assert gateway.request("POST", "/agent/chat", body).status == 200
    refused = gateway.request("POST", "/agent/chat", body, headers=headers)
    assert refused.status == 402 and refused.json["error"]["scope"] == "team:poor"
    assert gateway.spend("rich")["held"] == 0, "all or nothing"


def test_a_scope_without_any_budget_is_refused(gateway: RunningGateway) -> None:
    made = gateway.request("POST", "/api/keys", {"name": "k", "role": "agent", "scopes": ["team:nowhere"]}, key="admin")
    answer = gateway.request("POST", "/agent/chat", {"prompt": "x"}, key=made.json["key"])
    assert (answer.status, answer.json["error"]["code"]) == (402, "no_budget")


def test_a_budget_on_a_model_counts_that_model_only(gateway: RunningGateway) -> None:
    budget = gateway.put_budget(scopeType="model", scopeKey=LLAMA, limitUsd="0.0000001")
    assert gateway.chat(agent="models", modelId="llama-3-1-8b", maxTokens=5).status == 402
    assert gateway.chat(agent="models", maxTokens=5).status == 200
    assert gateway.request("DELETE", f"/api/budgets/{budget['id']}", key="admin").status == 204
    assert gateway.chat(agent="models", modelId="llama-3-1-8b", maxTokens=5).status == 200


def test_exact_and_wildcard_and_several_cadences(gateway: RunningGateway) -> None:
    gateway.put_budget(scopeType="user", scopeKey="*", limitUsd="0.0000001", cadence="monthly", timeZone="Asia/Tokyo")
    gateway.put_budget(scopeType="user", scopeKey="ada", limitUsd="5", cadence="daily", timeZone="Europe/Berlin")
    ada = {"X-Budget-Scopes": "user:ada"}
    refused = gateway.request("POST", "/agent/chat", {"prompt": "x"}, headers=ada)
    assert refused.status == 402, "a daily budget of her own does not lift everybody's monthly one"
    gateway.put_budget(scopeType="user", scopeKey="ada", limitUsd="5", cadence="monthly", timeZone="Asia/Tokyo")
    answer = gateway.request("POST", "/agent/chat", {"prompt": "x"}, headers=ada)
    assert answer.status == 200
    scopes = gateway.request("GET", "/api/dashboard/spend/ada?scopeType=user", key="admin").json["scopes"]
    in_force = {s["cadence"]: s["timeZone"] for s in scopes if s["inForce"]}
    assert in_force == {"daily": "Europe/Berlin", "monthly": "Asia/Tokyo"}


@pytest.fixture(scope="module")
def crowd(simulator: Simulated) -> Iterator[RunningGateway]:
    """Several workers, the default budget from the environment, others from a file and from Edge Config."""
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    with running_gateway(SPENDGATE_WORKERS="3", BUDGET_DEFAULT_LIMIT="0.5", **upstream) as running:
        yield running


def test_a_change_is_in_force_in_every_worker_at_once(crowd: RunningGateway) -> None:
    budget = crowd.put_budget(scopeType="agent", scopeKey="moved", limitUsd="5")
    path = f"/api/budgets/{budget['id']}"
    assert {crowd.chat(agent="moved", maxTokens=5).status for _ in range(9)} == {200}
    for limit, status in (("0.0000001", 402), ("5", 200), ("0.0000001", 402)):
        assert crowd.request("PATCH", path, {"limitUsd": limit}, key="admin").status == 200
        assert {crowd.chat(agent="moved", maxTokens=5).status for _ in range(9)} == {status}
    topped = crowd.request("POST", f"{path}/top-up", {"amountUsd": "1", "reason": "test"}, key="admin")
    assert topped.status == 200 and {crowd.chat(agent="moved", maxTokens=5).status for _ in range(9)} == {200}
    spent = crowd.spend("moved")["spent"]
    reset = crowd.request("POST", f"{path}/reset", {"reason": "a new start"}, key="admin")
    assert reset.status == 200 and crowd.spend("moved")["spent"] == 0 < spent
    paused = crowd.request("PATCH", path, {"paused": True}, key="admin")
    assert paused.status == 200 and crowd.chat(agent="moved").headers["x-budget-limit"] == "0.50"
    assert_books_are_right(crowd)


def test_the_default_budget_is_the_environments(crowd: RunningGateway) -> None:
    assert crowd.spend("anybody")["limit"] == 0.5
    answer = crowd.request("PATCH", "/api/budgets/default", {"limitUsd": "9"}, key="admin")
    assert answer.status == 409 and "BUDGET_DEFAULT_LIMIT" in answer.json["error"]["message"]


class EdgeConfig(BaseHTTPRequestHandler):
    """Answers as Edge Config's ``/items`` does, with an ETag."""

    limit: ClassVar[str] = "0.0000001"

    def do_GET(self) -> None:
        items = {"budgets": [{"scopeType": "agent", "scopeKey": "edgy", "limitUsd": self.limit}]}
        tag = f'"{self.limit}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.end_headers()
            return
        body = json.dumps(items).encode()
        self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def test_budgets_from_a_file_and_from_edge_config(simulator: Simulated, tmp_path: Path) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text("budgets:\n  - {scopeType: agent, scopeKey: filed, limitUsd: 0.0000001}\n")
    server = HTTPServer(("127.0.0.1", 0), EdgeConfig)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    edge = f"http://127.0.0.1:{server.server_port}/ecfg_test/items?token=t0ken"
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    with running_gateway(SPENDGATE_BUDGETS=str(file), EDGE_CONFIG=edge, **upstream) as gateway:
        assert gateway.chat(agent="filed").status == 402
        wait_for(lambda: gateway.chat(agent="edgy", maxTokens=5).status == 402, "Edge Config is read")
        EdgeConfig.limit = "5"
        wait_for(lambda: gateway.chat(agent="edgy", maxTokens=5).status == 200, "the change is read")
        server.shutdown()
        server.server_close()
        assert gateway.chat(agent="edgy", maxTokens=5).status == 200, "the last good copy serves"
        assert "t0ken" not in gateway.log.read_text()


def wait_for(true, what: str, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


def test_the_example_runs_and_its_books_agree(gateway: RunningGateway, simulator: Simulated) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "drive_one_agent.py"
    keys = ["--key", gateway.agent_key, "--admin-key", gateway.admin_key]
    command = [sys.executable, str(example), "--url", gateway.url, "--simulator", simulator.base_url, *keys]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for word in ("Active", "Warned", "Degraded", MIXTRAL, "402", "They agree to the nano-dollar."):
        assert word in ran.stdout
