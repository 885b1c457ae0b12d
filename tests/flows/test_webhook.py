"""Helicone's webhook: spend from elsewhere once, our own calls never twice."""

import concurrent.futures
import hashlib
import hmac
import json
from collections.abc import Iterator

import pytest

from core.ids import id_to_uuid
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right

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
