"""From a call over HTTP to its cost records, and back out by the questions that are asked of the ledger."""

import asyncio
import os
import signal
from collections.abc import Iterator
from decimal import Decimal
from functools import partial

import pytest

from ledger.ports import CallsAsk, Filter, SpendAsk
from tests.support.bill import bill_nano
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.ledger import ALL_TIME, assert_ledger_is_right, client_of, wait_for_ledger
from tests.support.simulated import Simulated
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    settings = {"SPENDGATE_STREAM_KEEP_S": "10", "SPENDGATE_LEDGER_COMPACT_EVERY_S": "10"}
    with running_gateway(SPENDGATE_LEDGER="embedded", **settings) as running:
        yield running


def call_rows(gateway: RunningGateway, agent: str):
    ask = CallsAsk(ALL_TIME, (Filter("agent", (agent,)),))
    return asyncio.run(client_of(gateway).call_list(ask))


def _is_another(gateway: RunningGateway, pid: int) -> bool:
    return gateway.ledger_pid() not in (None, pid)


def test_a_call_is_recorded(gateway: RunningGateway):
    answer = gateway.chat(agent="recorded").json
    wait_for_ledger(gateway)
    (call,) = call_rows(gateway, "recorded")
    assert (call.request_id, call.model_served, call.outcome) == (answer["requestId"], answer["model"], "answered")
    assert call.cost_nano == round(answer["cost"] * 10**9)
    assert call.output_tokens == answer["usage"]["outputTokens"]
    ask = SpendAsk(ALL_TIME, ("meter",), filters=(Filter("agent", ("recorded",)),))
    by_meter = {row.group[0]: row for row in asyncio.run(client_of(gateway).spend(ask))}
    assert set(by_meter) == {"Input", "Output"}
    assert by_meter["Output"].quantity == answer["usage"]["outputTokens"]
    assert sum(row.cost_usd for row in by_meter.values()) == Decimal(call.cost_nano) / 10**9
    calls, events = asyncio.run(client_of(gateway).of_request(answer["requestId"]))
    assert [c.identity for c in calls] == [call.identity]
    assert [e.type for e in events] == ["hold", "settle"]


def test_a_downgrade_and_a_refusal_say_what_they_saved(gateway: RunningGateway):
    gateway.put_budget(scopeType="agent", scopeKey="thin", limitUsd="0.003", hardCap="1.6", softCap="0.5")
    statuses = [gateway.chat(agent="thin", maxTokens=200).status for _ in range(40)]
    assert statuses[0] == 200 and statuses[-1] == 402
    wait_for_ledger(gateway)
    eventually(lambda: any(c.kind == "refusal" for c in call_rows(gateway, "thin")), "refusals are read too")
    calls = call_rows(gateway, "thin")
    downgraded = [c for c in calls if c.downgraded]
    assert downgraded and all(c.saved_nano > 0 and c.why for c in downgraded)
    refused = [c for c in calls if c.kind == "refusal"]
    assert refused[0].refusal in ("budget_stopped", "budget_exceeded")
    assert refused[0].account_id and refused[0].saved_nano > 0 and not refused[0].posted_nano


def test_explanations_have_the_numbers_of_that_time(gateway: RunningGateway):
    gateway.put_budget(scopeType="agent", scopeKey="told", limitUsd="0.0003", hardCap="1")
    gateway.put_budget(scopeType="team", scopeKey="told", limitUsd="5")
    scopes = {"X-Budget-Scopes": "team:told"}
    body = {"prompt": "Hello", "scopeType": "agent", "scopeKey": "told", "maxTokens": 20}
    answers: list[Answer] = []
    while not answers or answers[-1].status == 200:
        answers.append(gateway.request("POST", "/agent/chat", body, headers=scopes))
        gateway.spend("told")
    wait_for_ledger(gateway)
    served, refused = (answer.headers["x-request-id"] for answer in (answers[0], answers[-1]))
    eventually(lambda: any(c.request_id == refused for c in call_rows(gateway, "told")), "refusals are read too")
    (step,) = gateway.request("GET", f"/api/explain/{refused}", key="admin").json["events"]
    agent, team = step["accounts"]
    error = answers[-1].json["error"]
    assert (agent["decided"], team["decided"]) == (True, False)
    assert [str(agent[name]) for name in ("spent", "limit", "hardLimit")] == [
        str(float(error[name])) for name in ("spentUsd", "limitUsd", "hardLimitUsd")
    ]
    assert team["spent"] == agent["spent"] and (team["limit"], team["state"]) == (5, "Active")
    held, settled = gateway.request("GET", f"/api/explain/{served}", key="admin").json["events"]
    first = settled["accounts"][0]
    assert (first["spent"], first["held"], first["limit"]) == (0, held["accounts"][0]["amount"], 0.0003)


def test_spend_from_elsewhere(gateway: RunningGateway):
    body = {"scopeType": "agent", "scopeKey": "elsewhere", "cost": "0.5", "requestId": "x1", "provider": "OpenAI"}
    assert gateway.request("POST", "/webhook/helicone", body).status == 204
    assert gateway.request("POST", "/webhook/helicone", body).status == 204
    wait_for_ledger(gateway)
    (call,) = call_rows(gateway, "elsewhere")
    assert (call.kind, call.outcome, call.provider, call.cost_nano) == ("post", "webhook", "OpenAI", 500_000_000)


def test_its_process_is_killed_in_mid_traffic(gateway: RunningGateway):
    """What came meanwhile is there afterwards, once."""
    for turn in range(3):
        pid = gateway.ledger_pid()
        assert pid
        for _ in range(10):
            assert gateway.chat(agent=f"killed-{turn}").status == 200
        os.kill(pid, signal.SIGKILL)
        assert gateway.chat(agent=f"killed-{turn}").status == 200, "calls do not need it"
        eventually(partial(_is_another, gateway, pid), "it is started again")
    assert_ledger_is_right(gateway, 20)
    for turn in range(3):
        assert len(call_rows(gateway, f"killed-{turn}")) == 11


def test_sums_of_many_batches_are_merged(gateway: RunningGateway):
    for _ in range(4):
        gateway.chat(agent="merged")
        wait_for_ledger(gateway)
    eventually(partial(_is_merged, gateway), "one sum is left of each account and slot", 40)
    assert_ledger_is_right(gateway)


def _is_merged(gateway: RunningGateway) -> bool:
    rows = asyncio.run(client_of(gateway).facts())["rows"]
    return bool(rows["account_slots"] == len(asyncio.run(client_of(gateway).postings(None))))


def test_it_equals_the_upstreams_bill():
    """Over a restart of everything."""
    with running_gateway(SPENDGATE_LEDGER="embedded") as gateway:
        for number in range(12):
            gateway.chat(agent=f"a{number % 3}", stream=number % 2 == 0)
        assert_ledger_is_right(gateway)
        simulator = Simulated(gateway.simulator_url or "", gateway.process)
        (spend,) = asyncio.run(client_of(gateway).spend(SpendAsk(ALL_TIME)))
        assert spend.cost_usd * 10**9 == bill_nano(simulator.bill(recent=100))


def test_without_a_ledger_calls_are_served_and_nothing_goes():
    with running_gateway(SPENDGATE_LEDGER="off") as gateway:
        assert gateway.chat().status == 200
        assert gateway.ledger_pid() is None
