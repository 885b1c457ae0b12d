"""The adapter over real HTTP; what it converts is in test_anthropic_convert."""

import asyncio

import orjson
import pytest

from core.errors import ConfigError
from routing.adapters.anthropic import Anthropic
from routing.errors import FailureKind, UpstreamError
from tests.routing.servers import FakeClock, Request, call, endpoint, serving
from tests.routing.test_anthropic_convert import EVENTS, MESSAGE, USAGE
from tests.support.streams import payloads_of


def adapter_for(url: str) -> Anthropic:
    return Anthropic(endpoint(url, "anthropic"), FakeClock())


@pytest.mark.parametrize("tail", ["", "/", "/v1"])
async def test_a_call(tail: str) -> None:
    async def handler(request: Request) -> None:
        await request.answer(MESSAGE, headers={"request-id": "req_1"})

    async with serving(handler) as server:
        adapter = adapter_for(server.url + tail)
        answer = await adapter.send(call())
        await adapter.close()
    sent = server.requests[0]
    assert sent.path == "/v1/messages"
    assert sent.headers["x-api-key"] == "key-0123456789"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in sent.headers
    assert sent.json["max_tokens"] == 5
    assert answer.body["usage"] == USAGE
    assert answer.body["created"] == FakeClock().now_ms() // 1000
    assert answer.raw == b"", "it came in another shape"


async def test_a_stream_and_the_next_on_its_connection() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        for event in EVENTS:
            await request.chunk(b"event: " + event["type"].encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n")
        await request.chunk(b"")

    async with serving(handler) as server:
        adapter = adapter_for(server.url)
        for _ in range(2):
            stream = await adapter.open_stream(call())
            chunks = [orjson.loads(p) async for p in payloads_of(stream)]
            await stream.close()
            async with asyncio.timeout(1):
                while adapter._http._draining:
                    await asyncio.sleep(0.005)
            assert chunks[-1]["usage"] == USAGE
        await adapter.close()
    assert server.requests[0].json["stream"] is True
    assert server.connections == 1


async def test_a_stream_that_ends_too_early_is_broken() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event(EVENTS[0])
        await request.chunk(b"")

    async with serving(handler) as server:
        adapter = adapter_for(server.url)
        stream = await adapter.open_stream(call())
        with pytest.raises(UpstreamError) as caught:
            _ = [p async for p in payloads_of(stream)]
        await stream.close()
        await adapter.close()
    assert caught.value.kind is FailureKind.BROKEN


async def test_overloaded() -> None:
    async def handler(request: Request) -> None:
        await request.answer({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529)

    async with serving(handler) as server:
        adapter = adapter_for(server.url)
        for ask in (adapter.send, adapter.open_stream):
            with pytest.raises(UpstreamError) as caught:
                await ask(call())
            assert (caught.value.kind, caught.value.status) == (FailureKind.UNAVAILABLE, 529)
        await adapter.close()


async def test_what_can_not_be_converted_is_not_sent() -> None:
    adapter = adapter_for("http://127.0.0.1:1")
    for asked in (
        call({"messages": [{"role": "user", "content": "x"}], "n": 2}),
        call({"input": "x"}, operation="embeddings"),
    ):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(asked)
        assert caught.value.kind is FailureKind.REJECTED


def test_no_key() -> None:
    with pytest.raises(ConfigError):
        Anthropic(endpoint("http://x", "anthropic", api_key=None), FakeClock())
