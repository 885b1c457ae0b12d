"""Paths, credentials, limits, and bodies that are refused."""

import base64
import os
from typing import Any

import aiohttp
import pytest

from core.errors import InvalidInput
from simulator.auth import Doorkeeper, OAuthError
from simulator.errors import CallError
from simulator.faults import FaultKind, parse_fault_header
from simulator.limits import RateLimit
from simulator.settings import ModelSettings, SimulatorSettings, parse_settings
from tests.support.simulated import Simulated, running_simulator

DBRX = "databricks-dbrx-instruct"
GTE = "databricks-gte-large-en"
CALL = f"/serving-endpoints/{DBRX}/invocations"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "word"}]}


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


def basic(client: str) -> bytes:
    return b"Basic " + base64.b64encode(client.encode())


async def test_each_path_serves_what_it_is_for(sim: Simulated, http: aiohttp.ClientSession) -> None:
    cases = [
        ("chat/completions", {**BODY, "model": DBRX}, 200),
        ("embeddings", {"model": GTE, "input": "word"}, 200),
        (f"{GTE}/invocations", {"input": ["a", "b"]}, 200),
        ("embeddings", {"model": DBRX, "input": "word"}, 400),
        ("chat/completions", BODY, 400),
        ("chat/completions", {**BODY, "model": "databricks-nothing"}, 404),
        ("nothing", BODY, 404),
    ]
    for path, body, status in cases:
        async with http.post(f"{sim.base_url}/serving-endpoints/{path}", json=body) as answer:
            assert (answer.status, path) == (status, path)
            if status != 200:
                assert set(await answer.json()) == {"error_code", "message"}
    assert sim.bill()["models"][GTE]["prompt_tokens"] == 3 + 2 * 3


async def test_a_retired_endpoint_is_not_found(sim: Simulated, http: aiohttp.ClientSession) -> None:
    sim.change_model(DBRX, retired=True)
    try:
        async with http.post(sim.base_url + CALL, json=BODY) as answer:
            assert answer.status == 404
            assert (await answer.json())["error_code"] == "RESOURCE_DOES_NOT_EXIST"
        async with http.get(f"{sim.base_url}/api/2.0/serving-endpoints") as answer:
            names = [endpoint["name"] for endpoint in (await answer.json())["endpoints"]]
    finally:
        sim.change_model(DBRX, retired=False)
    assert DBRX not in names and GTE in names


async def test_bodies_that_are_refused(sim: Simulated, http: aiohttp.ClientSession) -> None:
    async def parts() -> Any:
        for _ in range(5):
            yield b"x" * 1024 * 1024

    cases: list[tuple[Any, int, str]] = [
        (b"{", 400, "MALFORMED_REQUEST"),
        (b"[]", 400, "MALFORMED_REQUEST"),
        (b"\xff", 400, "MALFORMED_REQUEST"),
        (b"x" * (4 * 1024 * 1024 + 1), 413, "REQUEST_SIZE_LIMIT_EXCEEDED"),
        (parts(), 413, "REQUEST_SIZE_LIMIT_EXCEEDED"),
    ]
    for data, status, code in cases:
        async with http.post(sim.base_url + CALL, data=data) as answer:
            assert (answer.status, (await answer.json())["error_code"]) == (status, code)
    assert sim.bill() == {"models": {}, "calls": 5}


async def test_a_body_just_under_the_limit_is_answered(sim: Simulated, http: aiohttp.ClientSession) -> None:
    big = {"messages": [{"role": "user", "content": "word" * 1_000_000}]}
    async with http.post(sim.base_url + CALL, json=big) as answer:
        assert (await answer.json())["usage"]["prompt_tokens"] == 1_000_004


async def test_without_a_token_401(sim: Simulated) -> None:
    async with aiohttp.ClientSession() as anonymous, anonymous.post(sim.base_url + CALL, json=BODY) as answer:
        assert (answer.status, (await answer.json())["error_code"]) == (401, "UNAUTHENTICATED")


async def test_oauth_tokens_over_http(http: aiohttp.ClientSession) -> None:
    form = {"grant_type": "client_credentials", "scope": "all-apis"}
    with running_simulator(access_tokens=["pat"], client_id="id", client_secret="secret") as own:
        url = f"{own.base_url}/oidc/v1/token"
        assert own.oauth_tokens_issued() == 0
        good, bad = aiohttp.encode_basic_auth("id", "secret"), aiohttp.encode_basic_auth("id", "no")
        async with http.post(url, data=form, headers={"Authorization": bad}) as answer:
            assert (answer.status, (await answer.json())["error"]) == (401, "invalid_client")
        async with http.post(url, data=form, headers={"Authorization": good}) as answer:
            token = await answer.json()
        assert own.oauth_tokens_issued() == 1
        assert (token["token_type"], token["expires_in"]) == ("Bearer", 3600)
        for text, status in [(token["access_token"], 200), ("pat", 200), ("other", 403)]:
            bearer = {"Authorization": f"Bearer {text}"}
            async with http.post(own.base_url + CALL, json=BODY, headers=bearer) as answer:
                assert answer.status == status


def test_an_oauth_token_expires() -> None:
    clock = FakeClock()
    door = Doorkeeper(SimulatorSettings(oauth_token_ttl_s=60), clock)
    token = door.issue(basic("id:secret"), b"grant_type=client_credentials&scope=all-apis")["access_token"]
    bearer = f"Bearer {token}".encode()
    clock.now_s += 59
    door.check(bearer)
    clock.now_s += 1
    with pytest.raises(CallError) as caught:
        door.check(bearer)
    assert caught.value.status == 401


@pytest.mark.parametrize(
    ("authorization", "form", "error"),
    [
        (None, b"grant_type=client_credentials&scope=all-apis", "invalid_client"),
        (b"Basic !!", b"grant_type=client_credentials&scope=all-apis", "invalid_client"),
        (basic("id:"), b"grant_type=client_credentials&scope=all-apis", "invalid_client"),
        (basic("id:s"), b"grant_type=password&scope=all-apis", "unsupported_grant_type"),
        (basic("id:s"), b"grant_type=client_credentials", "invalid_scope"),
    ],
)
def test_token_requests_that_are_refused(authorization: bytes | None, form: bytes, error: str) -> None:
    with pytest.raises(OAuthError) as caught:
        Doorkeeper(SimulatorSettings(), FakeClock()).issue(authorization, form)
    assert caught.value.body["error"] == error


def test_tokens_are_reserved_and_given_back() -> None:
    clock = FakeClock()
    limit, model = RateLimit(clock), ModelSettings(tokens_per_minute=100)
    window = limit.admit("m", model, 60)
    with pytest.raises(CallError, match="tokens per minute") as caught:
        limit.admit("m", model, 60)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 60)
    limit.give_back(window, 50)
    limit.admit("m", model, 60)
    clock.now_s += 60
    limit.admit("m", model, 100)
    limit.give_back(window, 50)
    with pytest.raises(CallError):
        limit.admit("m", model, 1)


async def test_requests_a_minute_over_http(http: aiohttp.ClientSession) -> None:
    with running_simulator(models={DBRX: {"requests_per_minute": 2}}) as own:
        statuses = []
        for _ in range(3):
            async with http.post(own.base_url + CALL, json=BODY) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 200, 429]
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        total = own.bill()["models"][DBRX]
        assert (total["requests"], total["billed_requests"]) == (3, 2)


def test_settings_lay_over_the_defaults() -> None:
    settings = parse_settings({"latency_ms": 5, "models": {DBRX: {"latency_ms": 7}, "own": {}}})
    assert settings.models[DBRX].latency_ms == 7
    assert settings.models[DBRX].served_name == "dbrx-instruct-032724"
    assert settings.models["own"].latency_ms == settings.models[GTE].latency_ms == 5


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ({"colour": 1}, "colour"),
        ({"latency_ms": "5"}, "latency_ms"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"tokens_per_chunk": 0}, "tokens_per_chunk"),
        ({"models": {DBRX: {"kind": "painting"}}}, "kind"),
        ({"models": {DBRX: {"faults": [{"fault": "x"}]}}}, "fault"),
        ({"models": {DBRX: {"faults": [{"fault": "slow", "speed": 1}]}}}, "speed"),
        ({"access_tokens": "pat"}, "access_tokens"),
    ],
)
def test_wrong_settings_are_named(raw: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_settings(raw)
    assert caught.value.field == field


def test_a_fault_header_with_options() -> None:
    fault = parse_fault_header("break_stream; chunks=3; delay_ms=1.5")
    assert (fault.kind, fault.chunks, fault.delay_ms) == (FaultKind.BREAK_STREAM, 3, 1.5)


async def test_control_refuses_what_it_does_not_know(sim: Simulated) -> None:
    for method, path, value in [
        ("PUT", "/simulator/models/nothing/faults", []),
        ("PUT", f"/simulator/models/{DBRX}/faults", {"fault": "nonsense"}),
        ("PUT", f"/simulator/models/{DBRX}", {"colour": 1}),
        ("GET", "/simulator/nothing", None),
    ]:
        with pytest.raises(AssertionError, match=r"40[04]"):
            sim.control(method, path, value)
    assert sim.control("GET", "/simulator/health")["status"] == "ok"
    assert sim.process.pid != os.getpid()
