"""Helicone's webhook: spend from elsewhere once, our own calls never twice."""

import concurrent.futures
import hashlib
import hmac
import json
import time
from collections.abc import Iterator

import pytest

from core.ids import id_to_uuid
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right, events_of
from tests.support.simulated import Simulated

DBRX = "databricks-dbrx-instruct"
SECRET = "a secret of Helicone's"


def post(gateway: RunningGateway, payload: object, **headers: str) -> Answer:
    return gateway.request("POST", "/webhook/helicone", payload, key=None, headers=headers)


def simple(agent: str, request_id: str, **fields: object) -> dict[str, object]:
    whole = {"scopeType": "agent", "scopeKey": agent, "cost": "0.25", "requestId": request_id, "provider": "OPENAI"}
    return whole | {"modelId": "gpt", "inputTokens": 10, "outputTokens": 5} | fields


def spent(gateway: RunningGateway, agent: str) -> float:
    return gateway.spend(agent)["spent"]


def test_foreign_spend_is_counted_once(gateway: RunningGateway) -> None:
    for _ in range(3):
        assert post(gateway, simple("elsewhere", "r-1")).status == 204
    assert post(gateway, simple("elsewhere", "r-2", cost=0.5)).status == 204
    assert spent(gateway, "elsewhere") == 0.75
    assert_books_are_right(gateway)


def test_many_at_once_are_one(gateway: RunningGateway) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(gateway, simple("crowd", "r-3")), range(16)))
    assert {a.status for a in answers} == {204}
    assert spent(gateway, "crowd") == 0.25


def test_a_missing_cost_is_computed_from_tokens(gateway: RunningGateway) -> None:
    payload = simple("tokens", "r-4", cost=None, modelId="databricks-dbrx-instruct", inputTokens=1000, outputTokens=100)
    assert post(gateway, payload).status == 204
    assert spent(gateway, "tokens") == (1000 * 750 + 100 * 2250) / 1e9


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cost": "NaN"}, "cost"),
        ({"cost": -1}, "cost"),
        ({"cost": 1e308}, "cost"),
        ({"cost": True}, "cost"),
        ({"cost": None}, "cost"),
        ({"requestId": ""}, "requestId"),
        ({"requestId": 7}, "requestId"),
        ({"scopeKey": "*"}, "scopeKey"),
        ({"scopeType": "A B"}, "scopeType"),
        ({"inputTokens": -1}, "inputTokens"),
        ({"outputTokens": 1.5}, "outputTokens"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_booked(gateway: RunningGateway, change, field: str) -> None:
    answer = post(gateway, simple("wrong", "r-5") | change)
    assert (answer.status, answer.json["error"]["field"]) == (400, field)
    assert spent(gateway, "wrong") == 0


@pytest.mark.parametrize("form", ["request id", "uuid"])
def test_our_own_call_is_trued_up_once_and_never_charged_again(gateway: RunningGateway, form: str) -> None:
    agent = f"own-{form}".replace(" ", "-")
    call = gateway.chat(agent=agent, maxTokens=10)
    assert spent(gateway, agent) == call.json["cost"]
    request_id = call.json["requestId"]
    own = request_id if form == "request id" else id_to_uuid(request_id)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: post(gateway, simple(agent, own, cost="0.01")), range(8)))
    assert spent(gateway, agent) == 0.01
    assert post(gateway, simple(agent, own, cost="0.02")).status == 204, "a stale one later has no effect"
    assert spent(gateway, agent) == 0.01
    assert_books_are_right(gateway)


@pytest.mark.parametrize("fault", ["unavailable", "garbage"])
def test_the_attempt_that_answered_is_trued_up(gateway: RunningGateway, simulator: Simulated, fault: str) -> None:
    agent = f"retried-{fault}"
    simulator.set_fault(DBRX, fault=fault, times=1)
    call = gateway.chat(agent=agent, maxTokens=10)
    last = next(
        e for e in events_of(gateway) if f":{agent}" in e.get("accounts", "") and e.get("outcome") == "answered"
    )
    first_cost = round(call.json["cost"] * 10**9) - int(last["cost_nano"])
    for _ in range(2):
        assert post(gateway, simple(agent, call.json["requestId"], cost="0.01")).status == 204
    assert round(spent(gateway, agent) * 10**9) == 10_000_000 + first_cost
    assert (first_cost > 0) == (fault == "garbage"), "a broken answer stays charged"
    assert_books_are_right(gateway)


def test_a_cost_of_nothing_does_not_make_our_own_call_free(gateway: RunningGateway) -> None:
    call = gateway.chat(agent="not-free", maxTokens=10)
    for zero in (0, "0", 0.0):
        assert post(gateway, simple("not-free", call.json["requestId"], cost=zero)).status == 204
    assert spent(gateway, "not-free") == call.json["cost"]


def test_a_webhook_that_is_faster_than_the_answer_charges_nothing(
    gateway: RunningGateway, simulator: Simulated
) -> None:
    simulator.set_fault(DBRX, fault="slow", delay_ms=500, times=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        calling = pool.submit(gateway.chat, agent="early", maxTokens=10)
        deadline_s = time.monotonic() + 5
        while simulator.in_flight() == 0:
            assert time.monotonic() < deadline_s, "the call reaches the upstream"
            time.sleep(0.01)
        own = simulator.bill(recent=1)["client_request_ids"][0]["client_request_id"]
        assert post(gateway, simple("early", own, cost="0.01")).status == 204
        call = calling.result()
    assert spent(gateway, "early") == call.json["cost"]
    assert post(gateway, simple("early", own, cost="0.01")).status == 204
    assert spent(gateway, "early") == 0.01, "sent again, it counts"
    assert_books_are_right(gateway)


def test_a_call_under_an_idempotency_key_is_trued_up(gateway: RunningGateway) -> None:
    body = {"prompt": "x", "scopeType": "agent", "scopeKey": "keyed", "maxTokens": 5}
    call = gateway.request("POST", "/agent/chat", body, headers={"Idempotency-Key": "hook"})
    assert post(gateway, simple("keyed", call.headers["x-request-id"], cost="0.01")).status == 204
    assert spent(gateway, "keyed") == 0.01


def test_helicones_own_payload(gateway: RunningGateway) -> None:
    payload = {
        "request_id": "0b8f9b1e-4c1d-4f6a-9f5e-2f4c3f0c7c11",
        "user_id": "ada",
        "model": "gpt-4o",
        "provider": "OPENAI",
        "metadata": {"cost": 0.125, "promptTokens": 5, "completionTokens": 6, "totalTokens": 11, "latencyMs": 3},
        "request_response_url": "http://169.254.169.254/never-fetched",
    }
    for _ in range(2):
        assert post(gateway, payload).status == 204
    assert spent(gateway, "helicone") == 0.125
    assert post(gateway, {"request_id": "other", "model": "gpt-4o"}).status == 400, "no cost, no tokens: not free"


@pytest.fixture(scope="module")
def signed() -> Iterator[RunningGateway]:
    with running_gateway(HELICONE_WEBHOOK_SECRET=SECRET) as running:
        yield running


def test_the_signature_is_over_the_exact_bytes(signed: RunningGateway) -> None:
    raw = json.dumps(simple("signed", "s-1"), indent=3).encode()
    good = hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
    for wrong in ("", "0" * 64, good[:-1], "é"):
        answer = post(signed, raw, **({"Helicone-Signature": wrong} if wrong != "" else {}))
        assert (answer.status, answer.json["error"]["code"]) == (401, "unauthorized")
    assert post(signed, raw + b" ", **{"Helicone-Signature": good}).status == 401
    assert spent(signed, "signed") == 0
    assert post(signed, raw, **{"Helicone-Signature": good}).status == 204
    assert spent(signed, "signed") == 0.25
