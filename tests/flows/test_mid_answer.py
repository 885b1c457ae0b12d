"""A budget changes while an answer runs: the answer ends on the money it holds, the next call sees the change."""

import http.client
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated, running_simulator

TOKENS = 200


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator(chunk_delay_ms=30, output_tokens=TOKENS) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x", "SPENDGATE_LEASE_S": "1"}
    with running_gateway(**upstream) as running:
        yield running


def patch(gateway: RunningGateway, budget_id: str, **fields: object) -> None:
    assert gateway.request("PATCH", f"/api/budgets/{budget_id}", fields, key="admin").status == 200


def raise_it(gateway: RunningGateway, agent: str, budget_id: str) -> None:
    assert gateway.chat(agent=agent, maxTokens=TOKENS).status == 429, "the stream holds what there is"
    patch(gateway, budget_id, limitUsd="1")


def lower_it(gateway: RunningGateway, agent: str, budget_id: str) -> None:
    patch(gateway, budget_id, limitUsd="0.000001")


def pause_it(gateway: RunningGateway, agent: str, budget_id: str) -> None:
    patch(gateway, budget_id, paused=True)


def delete_it(gateway: RunningGateway, agent: str, budget_id: str) -> None:
    assert gateway.request("DELETE", f"/api/budgets/{budget_id}", key="admin").status == 204


def use_it_up(gateway: RunningGateway, agent: str, budget_id: str) -> None:
    spent = {"scopeType": "agent", "scopeKey": agent, "cost": "5", "requestId": f"others-{agent}", "provider": "x"}
    assert gateway.request("POST", "/webhook/helicone", spent, key=None).status == 204


@pytest.mark.parametrize(
    ("change", "next_status", "next_budget"),
    [
        (raise_it, 200, "own"),
        (lower_it, 402, None),
        (pause_it, 200, "default"),
        (delete_it, 200, "default"),
        (use_it_up, 402, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_running_stream_ends_on_what_it_holds(
    gateway: RunningGateway,
    simulator: Simulated,
    change: Callable[[RunningGateway, str, str], None],
    next_status: int,
    next_budget: str | None,
) -> None:
    agent = change.__name__.replace("_", "-")
    # Enough for one such call: its hold is about 0.0006 dollars.
    terms = {"limitUsd": "0.001", "hardCap": 1, "allowDowngrade": False, "allowSmallerMaxTokens": False}
    budget_id = gateway.put_budget(scopeType="agent", scopeKey=agent, **terms)["id"]
    events = stream_through(gateway, agent, lambda: change(gateway, agent, budget_id))
    assert events[-1] == "[DONE]" and json.loads(events[-2])["done"]
    assert json.loads(events[-2])["usage"]["outputTokens"] == TOKENS, "whole, not cut"
    (first,) = settled(gateway, agent)
    assert (first["before"], first["basis"]) == ("held", "exact")
    assert first["accounts"].startswith(f"{budget_id}:"), "posted to the account that held for it"
    assert int(first["cost_nano"]) == bill_nano(simulator.bill(recent=1000), agent=agent) <= int(first["held_nano"])
    assert gateway.chat(agent=agent, maxTokens=TOKENS).status == next_status
    accounts = [e["accounts"].partition(":")[0] for e in settled(gateway, agent)[1:]]
    assert accounts == ([] if next_budget is None else [budget_id if next_budget == "own" else next_budget])


def settled(gateway: RunningGateway, agent: str) -> list[dict[str, str]]:
    events = assert_books_are_right(gateway)
    return [e for e in events if e["type"] == "settle" and f":{agent}" in e.get("accounts", "")]


def stream_through(gateway: RunningGateway, agent: str, in_the_middle: Callable[[], None]) -> list[str]:
    """The events of a stream; `in_the_middle` runs after the fifth."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=20)
    body = {"prompt": "Tell me", "scopeType": "agent", "scopeKey": agent, "stream": True, "maxTokens": TOKENS}
    head = {"Authorization": f"Bearer {gateway.agent_key}"}
    connection.request("POST", "/agent/chat", json.dumps(body), head)
    response = connection.getresponse()
    assert response.status == 200
    events = []
    while line := response.readline():
        if line.startswith(b"data: "):
            events.append(line[6:].decode().strip())
            if len(events) == 5:
                in_the_middle()
    connection.close()
    return events
