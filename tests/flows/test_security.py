"""Keys, roles, limits of size, and what never reaches a log."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.simulated import Simulated

CHAT = {"model": "dbrx", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}
SURFACES = ["/agent/chat", "/v1/chat/completions", "/v1/embeddings", "/serving-endpoints/dbrx/invocations"]


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "upstream-token-1234"}
    with running_gateway(SPENDGATE_LOG_LEVEL="debug", **upstream) as running:
        yield running


@pytest.mark.parametrize("path", SURFACES)
def test_every_surface_needs_an_agent_key(gateway: RunningGateway, path: str) -> None:
    for key, status in ((None, 401), ("nonsense", 401), ("sg_agent_000000000000_" + "0" * 64, 401), ("admin", 403)):
        answer = gateway.request("POST", path, CHAT, key=key)
        assert answer.status == status
        assert ("www-authenticate" in answer.headers) == (status == 401)


@pytest.mark.parametrize("path", ["dashboard/spend", "dashboard/spend/x", "models", "budgets", "keys", "events"])
def test_management_needs_the_admin_key(gateway: RunningGateway, path: str) -> None:
    assert gateway.request("GET", f"/api/{path}", key=None).status == 401
    assert gateway.request("GET", f"/api/{path}", key="agent").status == 403


def test_what_needs_no_key(gateway: RunningGateway) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert gateway.request("GET", path, key=None).status == 200
    paths = gateway.request("GET", "/openapi.json", key=None).json["paths"]
    assert {"/agent/chat", "/v1/chat/completions", "/webhook/helicone", "/api/budgets"} <= set(paths)


def test_a_key_may_name_only_what_it_is_allowed_to(gateway: RunningGateway) -> None:
    spec = {"name": "bound", "role": "agent", "scopes": ["agent:bound", "team:ml"], "mayName": ["user:a*"]}
    key = gateway.request("POST", "/api/keys", spec, key="admin").json["key"]

    def status(scopes: str) -> int:
        headers = {"X-Budget-Scopes": scopes}
        return gateway.request("POST", "/agent/chat", {"prompt": "x"}, key=key, headers=headers).status

    assert status("user:ada") == status("agent:bound, team:ml, user:alan") == 200
    for other in ("user:bob", "agent:other", "team:sales", "key:x", "model:dbrx", "org:acme"):
        assert status(other) == 403
    assert status("user:ada, user:alan") == 400 and status("nonsense") == 400


def test_a_deleted_key_is_useless(gateway: RunningGateway) -> None:
    made = gateway.request("POST", "/api/keys", {"name": "gone", "role": "agent", "scopes": ["agent:g"]}, key="admin")
    assert gateway.request("POST", "/agent/chat", {"prompt": "x"}, key=made.json["key"]).status == 200
    assert gateway.request("DELETE", f"/api/keys/{made.json['id']}", key="admin").status == 204
    assert gateway.request("POST", "/agent/chat", {"prompt": "x"}, key=made.json["key"]).status == 401
    listed = gateway.request("GET", "/api/keys", key="admin").body.decode()
    assert "digest" not in listed and gateway.agent_key not in listed


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "body must be JSON"),
        (b"[1]", 400, "body must be a JSON object"),
        (b'{"prompt": "\xff"}', 400, "body must be JSON"),
        (b'{"prompt": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "nested deeper"),
        (b'{"prompt": "' + b"x" * (5 * 1024 * 1024) + b'"}', 413, "larger than"),
        (json.dumps({"prompt": "x", "surprise": 1}).encode(), 400, "surprise is not known"),
        (json.dumps({"prompt": "x", "messages": []}).encode(), 400, "prompt or messages"),
        (json.dumps({"prompt": ""}).encode(), 400, "prompt must be text"),
        (json.dumps({"prompt": "x", "maxTokens": 0}).encode(), 400, "max_tokens must be a whole number"),
        (json.dumps({"prompt": "x", "scopeType": "agent"}).encode(), 400, "scopeKey"),
        (json.dumps({"prompt": "x", "modelId": "nope"}).encode(), 404, "not in the routes"),
    ],
)
def test_bad_input_names_the_rule(gateway: RunningGateway, body: bytes, status: int, words: str) -> None:
    answer = gateway.request("POST", "/agent/chat", body)
    assert answer.status == status and words in answer.json["error"]["message"]


def test_headers_compression_and_methods(gateway: RunningGateway) -> None:
    large = gateway.request("POST", "/agent/chat", {"prompt": "x"}, headers={"X-Large": "x" * 40_000})
    assert large.status in (400, 431)
    packed = gateway.request("POST", "/agent/chat", gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})
    assert packed.status == 415 and "Content-Encoding" in packed.json["error"]["message"]
    assert gateway.request("GET", "/agent/chat").status == 405
    assert gateway.request("POST", "/nowhere", {}).status == 404


@pytest.mark.parametrize(
    "field",
    [
        {"best_of": 2},
        {"n": 0},
        {"n": 1000},
        {"prediction": {}},
        {"service_tier": "priority"},
        {"modalities": ["text", "audio"]},
        {"web_search_options": {}},
        {"audio": {"voice": "alloy"}},
        {"surprise": 1},
        {"tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]}]},
    ],
)
def test_what_can_not_be_bounded_is_refused_by_name(gateway: RunningGateway, simulator: Simulated, field: dict) -> None:
    before = simulator.bill()["calls"]
    answer = gateway.request("POST", "/v1/chat/completions", CHAT | field)
    assert answer.status == 400 and next(iter(field)) in answer.json["error"]["param"]
    assert simulator.bill()["calls"] == before


def test_several_choices_are_held_and_paid_for(gateway: RunningGateway) -> None:
    one = gateway.request("POST", "/v1/chat/completions", CHAT)
    three = gateway.request("POST", "/v1/chat/completions", CHAT | {"n": 3})
    assert len(three.json["choices"]) == 3
    assert float(three.headers["x-cost-usd"]) > 2 * float(one.headers["x-cost-usd"])


def test_a_model_without_a_price_is_refused(simulator: Simulated, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text(
        f"endpoints: {{e: {{kind: databricks, base_url: '{simulator.base_url}', api_key: x}}}}\n"
        "models: [{name: databricks-dbrx-instruct, endpoint: e, role: primary}, {name: new-model, endpoint: e}]\n"
    )
    with running_gateway(SPENDGATE_ROUTES=str(routes)) as gateway:
        answer = gateway.chat(modelId="new-model")
        assert (answer.status, answer.json["error"]["code"]) == (400, "unpriced_model")
        assert "new-model has no price" in answer.json["error"]["message"]


def test_prompts_and_keys_never_reach_a_log(gateway: RunningGateway, simulator: Simulated) -> None:
    marker = "the-secret-prompt-marker"
    simulator.set_fault("*", fault="invalid_parameter", times=1)
    gateway.chat(marker)
    simulator.set_fault("databricks-dbrx-instruct", fault="garbage", times=1)
    gateway.chat(marker)
    simulator.clear_faults()
    gateway.chat(marker, stream=True)
    gateway.request("POST", "/agent/chat", {"prompt": marker}, key="sg_agent_" + marker)
    log = gateway.log.read_text()
    assert "attempt at" in log, "it does log"
    for secret in (marker, gateway.agent_key, gateway.admin_key, gateway.agent_key[-64:], "upstream-token-1234"):
        assert secret not in log
