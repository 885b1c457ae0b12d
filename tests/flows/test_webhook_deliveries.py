"""Webhooks as the world delivers them: twice, in any order, late, early, forged and malformed."""

import concurrent.futures
import hashlib
import hmac
import json
import random
from collections.abc import Iterator

import pytest

from core.ids import derived_id, id_to_uuid
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right, events_of

SECRET = "a secret of Helicone's"
HELICONE = {
    "request_id": "6f0f9b1e-4c1d-4f6a-9f5e-2f4c3f0c7c22",
    "model": "gpt-4o",
    "provider": "OPENAI",
    "metadata": {"cost": 0.125, "promptTokens": 5, "completionTokens": 6},
}


def post(gateway: RunningGateway, payload: object, **headers: str) -> Answer:
    return gateway.request("POST", "/webhook/helicone", payload, key=None, headers=headers)


def simple(agent: str, request_id: str, **fields: object) -> dict[str, object]:
    whole = {"scopeType": "agent", "scopeKey": agent, "cost": "0.25", "requestId": request_id, "provider": "OPENAI"}
    return whole | fields


def spent_nano(gateway: RunningGateway, agent: str) -> int:
    return round(gateway.spend(agent)["spent"] * 10**9)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_order_and_number_of_deliveries_do_not_matter(gateway: RunningGateway, seed: int) -> None:
    """Our own calls and foreign ones, each delivered up to three times, in an order of chance, four at a time."""
    chance = random.Random(seed)
    agent = f"order-{seed}"
    own = [gateway.chat(agent=agent, maxTokens=5).json["requestId"] for _ in range(5)]
    payloads = [simple(agent, request_id, cost=f"0.0{n + 1}") for n, request_id in enumerate(own)]
    payloads += [simple(agent, f"foreign-{seed}-{n}", cost="0.001") for n in range(10)]
    deliveries = [p for p in payloads for _ in range(chance.randint(1, 3))]
    chance.shuffle(deliveries)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda p: post(gateway, p), deliveries))
    assert [a.body for a in answers if a.status != 204] == []
    assert spent_nano(gateway, agent) == (1 + 2 + 3 + 4 + 5) * 10_000_000 + 10 * 1_000_000
    assert_books_are_right(gateway)


@pytest.mark.parametrize("at", ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00Z", "no time", -1, 1e308])
def test_a_time_in_a_payload_moves_no_charge(gateway: RunningGateway, at: object) -> None:
    """No time is signed, so none is believed: a charge belongs to the period in which it arrives."""
    agent = "timed-" + hashlib.sha256(str(at).encode()).hexdigest()[:6]
    times = {"timestamp": at, "createdAt": at, "request_created_at": at}
    for _ in range(2):
        assert post(gateway, simple(agent, agent) | times).status == 204
    gateway.chat(agent=agent, maxTokens=5)
    posted, call = [e for e in events_of(gateway) if f":{agent}" in e.get("accounts", "") and "before" in e]
    assert posted["accounts"] == call["accounts"], "one account, of the current period"
    assert spent_nano(gateway, agent) == 250_000_000 + int(call["cost_nano"])


@pytest.mark.parametrize("at_ms", [1_000_000_000_000, 4_000_000_000_000])
def test_an_id_of_ours_that_is_not_remembered_charges_nothing(gateway: RunningGateway, at_ms: int) -> None:
    """From long ago, or from the future: it bears our mark, so its call was charged when it was made, or never was."""
    agent = f"forgotten-{at_ms}"
    mark = derived_id("req", agent).partition("_")[2][12:]
    request_id = f"req_{at_ms:012x}{mark}"
    for own in (request_id, id_to_uuid(request_id)):
        assert post(gateway, simple(agent, own)).status == 204
        assert post(gateway, HELICONE | {"request_id": own, "user_id": agent}).status == 204
    assert spent_nano(gateway, agent) == 0
    assert "came too late to true it up" in gateway.log.read_text()


def test_helicones_payload_trues_up_our_own_call(gateway: RunningGateway) -> None:
    call = gateway.chat(agent="through-helicone", maxTokens=5)
    own = id_to_uuid(call.json["requestId"])
    for cost in (0.01, 0.01, 0.02):
        payload = HELICONE | {"request_id": own, "user_id": "grace", "metadata": {"cost": cost}}
        assert post(gateway, payload).status == 204
    assert spent_nano(gateway, "through-helicone") == 10_000_000, "the first that knows a cost counts"
    assert not [e for e in events_of(gateway) if ":grace" in e.get("accounts", "")], "and nobody else pays"


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        (b'"text"', "body"),
        (b'{"requestId": "\xff"}', "body"),
        (b'{"requestId": "x", "cost": NaN}', "body"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "body"),
        (b"{}", "requestId"),
        (simple("malformed", "x" * 201), "requestId"),
        (simple("malformed", "x") | {"scopeType": None}, "scopeType"),
        (simple("malformed", "x", cost={"usd": 1}), "cost"),
        (simple("malformed", "x", cost="1e400"), "cost"),
        (simple("malformed", "x", cost=None, modelId="unheard-of", inputTokens=5), "cost"),
        (HELICONE | {"request_id": 5}, "request_id"),
        (HELICONE | {"request_id": ""}, "request_id"),
        (HELICONE | {"metadata": [1]}, "metadata"),
        (HELICONE | {"metadata": {"cost": -1}}, "metadata.cost"),
        (HELICONE | {"metadata": {"cost": "Infinity"}}, "metadata.cost"),
        (HELICONE | {"metadata": {"promptTokens": -5}}, "promptTokens"),
        (HELICONE | {"metadata": {"completionTokens": 10**18}}, "completionTokens"),
        (HELICONE | {"user_id": {"name": "ada"}}, "user_id"),
        (HELICONE | {"provider": 7}, "provider"),
        (HELICONE | {"model": ["gpt"]}, "model"),
    ],
)
def test_wrong_content_is_named_and_books_nothing(gateway: RunningGateway, payload: object, field: str) -> None:
    before = len(events_of(gateway))
    answer = post(gateway, payload)
    assert (answer.status, answer.json["error"]["field"]) == (400, field)
    assert len(events_of(gateway)) == before


def test_sizes_encodings_and_methods(gateway: RunningGateway) -> None:
    assert post(gateway, b" " * (4 * 1024 * 1024 + 1)).status == 413
    assert post(gateway, b"{}", **{"Content-Encoding": "gzip"}).status == 415
    assert gateway.request("GET", "/webhook/helicone", key=None).status == 405


@pytest.fixture(scope="module")
def signed() -> Iterator[RunningGateway]:
    with running_gateway(HELICONE_WEBHOOK_SECRET=SECRET) as running:
        yield running


def signature(raw: bytes, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest()


def test_a_forged_webhook_is_refused_before_it_is_read(signed: RunningGateway) -> None:
    raw = json.dumps(simple("forged", "f-1")).encode()
    other = json.dumps(simple("forged", "f-1", cost="9.99")).encode()
    forgeries = [
        (raw, signature(raw, "another secret")),
        (raw, signature(raw, "")),
        (other, signature(raw)),
        (raw, hashlib.sha256(raw).hexdigest()),
        (raw, "sha256=" + signature(raw)),
        (raw, signature(raw).upper()),
        (b"{", signature(raw)),
        (b"", ""),
    ]
    for body, forged in forgeries:
        answer = post(signed, body, **{"Helicone-Signature": forged})
        assert (answer.status, answer.json["error"]["code"]) == (401, "unauthorized")
    assert events_of_agent(signed, "forged") == []


def test_a_signed_webhook_counts_once_however_often_it_is_replayed(signed: RunningGateway) -> None:
    raw = json.dumps(simple("replayed", "s-1")).encode()
    for _ in range(3):
        assert post(signed, raw, **{"Helicone-Signature": signature(raw)}).status == 204
    assert spent_nano(signed, "replayed") == 250_000_000
    bad = b'{"requestId": 7}'
    assert post(signed, bad, **{"Helicone-Signature": signature(bad)}).status == 400, "a good signature of nonsense"


def test_without_a_secret_none_is_taken_from_the_network() -> None:
    with running_gateway(SPENDGATE_HOST="0.0.0.0") as gateway:
        answer = post(gateway, simple("open", "o-1"))
        assert (answer.status, answer.json["error"]["code"]) == (401, "unauthorized")
        assert "HELICONE_WEBHOOK_SECRET" in answer.json["error"]["message"]
        assert events_of_agent(gateway, "open") == []


def events_of_agent(gateway: RunningGateway, agent: str) -> list[dict[str, str]]:
    return [e for e in events_of(gateway) if f":{agent}" in e.get("accounts", "")]
