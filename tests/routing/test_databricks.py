import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from core.errors import ConfigError
from core.ids import id_to_uuid
from routing.adapters.databricks import Databricks, workspace_url
from routing.errors import FailureKind, UpstreamError
from tests.routing.servers import ANSWER, ATTEMPT, FakeClock, Request, Server, call, endpoint, serving
from tests.support.streams import payloads_of

INVOCATIONS = "/serving-endpoints/up%2Fstream/invocations"


@asynccontextmanager
async def workspace(
    handler: Callable[[Request], Awaitable[None]], **changes: Any
) -> AsyncIterator[tuple[Databricks, Server, FakeClock]]:
    clock = FakeClock()
    async with serving(handler) as server:
        adapter = Databricks(endpoint(server.url, "databricks", **changes), clock)
        try:
            yield adapter, server, clock
        finally:
            await adapter.close()


async def answers(request: Request) -> None:
    await request.answer(ANSWER, headers={"x-request-id": "dbx-1"})


async def test_a_call() -> None:
    body = {"messages": [], "usage_context": {"own": "x", "agent": "forged"}, "client_request_id": "forged"}
    trace = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"
    async with workspace(answers) as (adapter, server, _):
        answer = await adapter.send(call(body, usage_context={"agent": "bot"}, traceparent=trace))
    sent = server.requests[0]
    assert answer.body == ANSWER
    assert orjson.loads(answer.raw) == ANSWER
    assert sent.path == INVOCATIONS
    assert sent.headers["authorization"] == "Bearer key-0123456789"
    assert sent.headers["traceparent"] == trace
    assert sent.headers["helicone-request-id"] == id_to_uuid(ATTEMPT)
    expected = {"messages": [], "client_request_id": ATTEMPT, "usage_context": {"own": "x", "agent": "bot"}}
    assert sent.json == expected
    assert body["client_request_id"] == "forged"  # the caller's body is not changed


async def test_embeddings_go_to_the_same_path() -> None:
    async def handler(request: Request) -> None:
        await request.answer({"object": "list", "data": []})

    async with workspace(handler) as (adapter, server, _):
        answer = await adapter.send(call({"input": ["a"]}, operation="embeddings"))
    assert answer.body == {"object": "list", "data": []}
    assert server.requests[0].path == INVOCATIONS
    assert server.requests[0].json["input"] == ["a"]


@pytest.mark.parametrize("forged", ["x\r\nEvil: 1", "nonsense", "00-zz"])
async def test_a_trace_context_that_is_none_is_not_passed_on(forged: str) -> None:
    async with workspace(answers) as (adapter, server, _):
        await adapter.send(call(traceparent=forged))
    assert "traceparent" not in server.requests[0].headers
    assert "evil" not in server.requests[0].headers


@pytest.mark.parametrize("tail", ["", "/", "/serving-endpoints", "/serving-endpoints/"])
def test_any_form_of_the_workspaces_address(tail: str) -> None:
    assert workspace_url("https://adb-1.azuredatabricks.net" + tail) == "https://adb-1.azuredatabricks.net"


def refuses(*fields: str) -> Callable[[Request], Awaitable[None]]:
    """A model that names the first of these fields that it finds, and knows nothing else to say."""

    async def handler(request: Request) -> None:
        for field in fields:
            if field in request.json:
                text = f'Bad request: json: unknown field "{field}"'
                await request.answer({"error_code": "BAD_REQUEST", "message": text}, 400)
                return
        if request.json.get("stream"):
            await request.begin_stream()
            await request.event(ANSWER)
            await request.end_stream()
        else:
            await request.answer(ANSWER)

    return handler


async def test_a_field_that_is_refused_is_left_out_from_then_on() -> None:
    handler = refuses("stream_options", "client_request_id", "usage_context")
    async with workspace(handler) as (adapter, server, _):
        stream = await adapter.open_stream(call(usage_context={"a": "b"}))
        assert [orjson.loads(p) async for p in payloads_of(stream)] == [ANSWER]
        assert len(server.requests) == 4
        assert not {"stream_options", "client_request_id", "usage_context"} & server.requests[-1].json.keys()
        await adapter.send(call(usage_context={"a": "b"}))
        assert len(server.requests) == 5
        other = call(model=type(call().model)("other", "e", "other"), usage_context={"a": "b"})
        await adapter.send(other)
    assert "client_request_id" in server.requests[5].json  # each model for itself


async def test_a_caller_can_not_switch_our_fields_off() -> None:
    """A 400 that quotes a field's name but stays a 400 without the field is the caller's, and not remembered."""

    async def handler(request: Request) -> None:
        if "evil" in str(request.json["messages"]):
            await request.answer({"error_code": "X", "message": "no: 'client_request_id usage_context'"}, 400)
        else:
            await request.answer(ANSWER)

    evil = call({"messages": [{"role": "user", "content": "evil"}]}, usage_context={"a": "b"})
    async with workspace(handler) as (adapter, server, _):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(evil)
        await adapter.send(call(usage_context={"a": "b"}))
    assert caught.value.kind is FailureKind.REJECTED
    assert {"client_request_id", "usage_context"} <= server.requests[-1].json.keys()


async def test_a_400_about_something_else_is_not_tried_again() -> None:
    async def handler(request: Request) -> None:
        await request.answer({"error_code": "INVALID_PARAMETER_VALUE", "message": "temperature must be …"}, 400)

    async with workspace(handler) as (adapter, server, _):
        with pytest.raises(UpstreamError):
            await adapter.send(call())
    assert len(server.requests) == 1


async def test_an_access_token_that_is_refused_is_not_tried_again() -> None:
    async def handler(request: Request) -> None:
        await request.answer({"error_code": "UNAUTHENTICATED", "message": "Token is expired."}, 401)

    async with workspace(handler) as (adapter, server, _):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call())
    assert caught.value.kind is FailureKind.UNAUTHORIZED
    assert len(server.requests) == 1


def test_no_credentials() -> None:
    with pytest.raises(ConfigError):
        Databricks(endpoint("http://x", "databricks", api_key=None), FakeClock())


class Issuer:
    """Serves models and tokens. accepted: the tokens that work; None takes all. life_s: of a token."""

    def __init__(self, life_s: object = 3600) -> None:
        self.issued = 0
        self.accepted: set[str] | None = None
        self.life_s = life_s
        self.forms: list[Request] = []
        self.open = asyncio.Event()
        self.open.set()
        self.status = 200
        self.waiting = asyncio.Event()

    async def __call__(self, request: Request) -> None:
        if request.path != "/oidc/v1/token":
            token = request.headers["authorization"].removeprefix("Bearer ")
            if self.accepted is None or token in self.accepted:
                await request.answer(ANSWER)
            else:
                await request.answer({"error_code": "UNAUTHENTICATED", "message": "Token is expired."}, 401)
            return
        self.forms.append(request)
        self.waiting.set()
        await self.open.wait()
        self.issued += 1
        issued = {"access_token": f"t{self.issued}", "expires_in": self.life_s}
        await request.answer(issued if self.status == 200 else {"error": "x"}, self.status)


def oauth(issuer: Issuer):
    return workspace(issuer, api_key=None, client_id="id", client_secret="secret")


async def test_a_token_is_fetched_as_oauth_says() -> None:
    async with oauth(Issuer()) as (adapter, server, _):
        await adapter.send(call())
        await adapter.send(call())
    form, *calls = server.requests
    assert form.body == b"grant_type=client_credentials&scope=all-apis"
    assert form.headers["authorization"] == "Basic aWQ6c2VjcmV0"
    assert form.headers["content-type"] == "application/x-www-form-urlencoded"
    assert [c.headers["authorization"] for c in calls] == ["Bearer t1", "Bearer t1"]


async def test_oauth_goes_before_an_access_token() -> None:
    async with workspace(Issuer(), api_key="pat", client_id="id", client_secret="secret") as (adapter, server, _):
        await adapter.send(call())
    assert server.requests[-1].headers["authorization"] == "Bearer t1"


async def test_fifty_calls_fetch_one_token() -> None:
    issuer = Issuer()
    issuer.open.clear()
    async with oauth(issuer) as (adapter, _, _clock):
        calls = [asyncio.create_task(adapter.send(call())) for _ in range(50)]
        await issuer.waiting.wait()
        calls[0].cancel()  # also when the one that began it leaves
        issuer.open.set()
        results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert [r.body for r in results[1:] if not isinstance(r, BaseException)] == [ANSWER] * 49
    assert len(issuer.forms) == 1


async def test_fifty_calls_whose_token_was_revoked_fetch_one_more() -> None:
    issuer = Issuer()
    async with oauth(issuer) as (adapter, server, _):
        await adapter.send(call())
        issuer.accepted = {"t2"}
        await asyncio.gather(*(adapter.send(call()) for _ in range(50)))
    assert len(issuer.forms) == 2
    assert len(server.requests) <= 2 + 1 + 100


async def test_a_late_401_does_not_cost_the_new_token() -> None:
    async with oauth(Issuer()) as (adapter, _, _clock):
        credentials = adapter._credentials
        old = await credentials.bearer()
        assert credentials.refused(old)
        assert await credentials.bearer() == "t2"
        assert credentials.refused(old)
        assert await credentials.bearer() == "t2"


async def test_a_401_is_tried_again_once() -> None:
    issuer = Issuer()
    issuer.accepted = set()
    async with oauth(issuer) as (adapter, server, _):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call())
    assert caught.value.kind is FailureKind.UNAUTHORIZED
    assert [r.path for r in server.requests] == ["/oidc/v1/token", INVOCATIONS, "/oidc/v1/token", INVOCATIONS]


async def test_a_token_is_renewed_in_the_background_while_it_still_works() -> None:
    issuer = Issuer(life_s=1000)
    async with oauth(issuer) as (adapter, server, clock):
        await adapter.send(call())
        clock.pass_s(799)
        await adapter.send(call())
        assert len(issuer.forms) == 1
        clock.pass_s(2)
        issuer.open.clear()  # the token endpoint hangs: nobody waits for it
        issuer.waiting.clear()
        for _ in range(5):
            await adapter.send(call())
        await issuer.waiting.wait()
        assert len(issuer.forms) == 2
        issuer.open.set()
        while adapter._credentials._token.text != "t2":
            await asyncio.sleep(0.005)
        await adapter.send(call())
    assert [r.headers["authorization"] for r in server.requests if r.path == INVOCATIONS] == ["Bearer t1"] * 7 + [
        "Bearer t2"
    ]


async def test_a_token_past_its_life_is_not_used() -> None:
    issuer = Issuer(life_s=1000)
    async with oauth(issuer) as (adapter, server, clock):
        await adapter.send(call())
        clock.pass_s(1000)
        await adapter.send(call())
    assert server.requests[-1].headers["authorization"] == "Bearer t2"


async def test_a_renewal_that_fails_is_not_hammered() -> None:
    issuer = Issuer(life_s=1000)
    async with oauth(issuer) as (adapter, _, clock):
        await adapter.send(call())
        clock.pass_s(850)
        issuer.status = 503
        for _ in range(20):
            await adapter.send(call())
        while adapter._credentials._renewal is not None:
            await asyncio.sleep(0.005)
        for _ in range(20):
            await adapter.send(call())
        assert len(issuer.forms) == 2
        clock.pass_s(6)
        issuer.status = 200
        await adapter.send(call())
        while adapter._credentials._renewal is not None:
            await asyncio.sleep(0.005)
        assert len(issuer.forms) == 3


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, FailureKind.UNAUTHORIZED), (503, FailureKind.UNAVAILABLE), (429, FailureKind.UNAVAILABLE)],
)
async def test_no_token_no_call(status: int, kind: FailureKind) -> None:
    issuer = Issuer()
    issuer.status = status
    async with oauth(issuer) as (adapter, server, _):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call())
    assert caught.value.kind is kind
    assert INVOCATIONS not in [r.path for r in server.requests]


@pytest.mark.parametrize(("reply", "kind"), [(None, FailureKind.NOT_SENT), (b"<html>", FailureKind.UNAVAILABLE)])
async def test_a_token_endpoint_that_is_broken_costs_nothing(reply: bytes | None, kind: FailureKind) -> None:
    async def handler(request: Request) -> None:
        if reply is None:
            request.reset()
        else:
            await request.answer(reply)

    async with workspace(handler, api_key=None, client_id="id", client_secret="secret") as (adapter, _, _clock):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call())
    assert caught.value.kind is kind


async def test_a_token_endpoint_that_hangs_costs_nothing() -> None:
    issuer = Issuer()
    issuer.open.clear()
    async with oauth(issuer) as (adapter, _, _clock):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call(timeout_s=0.2))
    assert caught.value.kind is FailureKind.NOT_SENT


@pytest.mark.parametrize("life_s", [None, "3600", -1, True, 0])
async def test_a_life_that_is_nonsense_is_an_hour(life_s: object) -> None:
    issuer = Issuer(life_s)
    async with oauth(issuer) as (adapter, _, clock):
        await adapter.send(call())
        clock.pass_s(2000)
        await adapter.send(call())
    assert len(issuer.forms) == 1
