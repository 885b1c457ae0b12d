"""A price override on a running gateway: the next call on every worker is charged by it, and the events say which price
it was.
"""

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.waiting import eventually

MODEL = "databricks-dbrx-instruct"
RATES = {"input": "10", "output": "20"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with running_gateway(SPENDGATE_WORKERS="3", BUDGET_DEFAULT_LIMIT="50") as running:
        yield running


def charged_nano(answers: list[Any]) -> list[tuple[int, int]]:
    """(what each call cost, what it would at `RATES`), in nano-dollars."""
    found = []
    for answer in answers:
        assert answer.status == 200, answer.body
        usage, cost = answer.json["usage"], answer.headers["x-cost-usd"]
        nano = usage["prompt_tokens"] * 10_000 + usage["completion_tokens"] * 20_000
        found.append((round(float(cost) * 1e9), nano))
    return found


def calls(gateway: RunningGateway, agent: str, count: int) -> list[Any]:
    """Each on a connection of its own, so that every worker gets some."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
    headers = {"X-Budget-Scopes": f"agent:{agent}"}
    return [gateway.request("POST", "/v1/chat/completions", body, headers=headers) for _ in range(count)]


def test_the_next_call_on_every_worker_is_charged_by_it(gateway: RunningGateway):
    before = charged_nano(calls(gateway, "priced", 6))
    assert all(cost < nano for cost, nano in before)
    spec = {"model": MODEL, "usdPerMillionTokens": RATES, "reason": "a test"}
    made = gateway.request("POST", "/api/prices", spec, key="admin")
    assert made.status == 201, made.body
    during = charged_nano(calls(gateway, "priced", 24))
    assert all(cost == nano for cost, nano in during)
    ended = gateway.request("POST", f"/api/prices/{made.json['id']}/end", key="admin")
    assert ended.status == 200
    after = charged_nano(calls(gateway, "priced", 24))
    assert all(cost < nano for cost, nano in after)
    spent = sum(cost for cost, _ in before + during + after)
    assert round(float(gateway.spend("priced")["spent"]) * 1e9) == spent

    events = gateway.request("GET", "/api/events?limit=1000", key="admin").json["events"]
    versions = [json.loads(e["detail"])["price_version"] for e in events if e["type"] == "settle"]
    listed, overriding = versions[0], f"{MODEL}@{made.json['id']}"
    assert versions == [listed] * 6 + [overriding] * 24 + [listed] * 24
    found = gateway.request("GET", f"/api/prices?model={MODEL}", key="admin").json["prices"]
    assert [row["priceVersion"] for row in found] == [listed, overriding]
    assert [row["inForce"] for row in found] == [True, False]


def test_a_new_worker_charges_by_it(gateway: RunningGateway):
    spec = {"model": MODEL, "usdPerMillionTokens": RATES, "reason": "a test"}
    made = gateway.request("POST", "/api/prices", spec, key="admin").json
    try:
        before = gateway.worker_pids()
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(gateway.worker_pids()) - set(before)) == 3, "all workers are new")
        eventually(lambda: gateway.request("GET", "/readyz", key=None).status == 200, "they serve")
        assert all(cost == nano for cost, nano in charged_nano(calls(gateway, "later", 9)))
    finally:
        gateway.request("POST", f"/api/prices/{made['id']}/end", key="admin")
