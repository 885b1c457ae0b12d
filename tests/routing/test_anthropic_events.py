"""The documented event sequences over real HTTP, judged by both SDKs' types; see also test_anthropic."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from core.ids import id_to_uuid
from routing.adapters.anthropic import Anthropic
from routing.adapters.anthropic_stream import StreamConverter
from routing.errors import FailureKind, UpstreamError
from tests.routing.messages_api import (
    HELLO,
    PING,
    STOP,
    WEATHER,
    delta,
    message,
    sse,
    start,
    text_block,
    thinking_block,
    tool_block,
    valid_events,
    valid_request,
)
from tests.routing.servers import ATTEMPT, FakeClock, Request, Server, call, endpoint, serving
from tests.support.streams import payloads_of

Handler = Callable[[Request], Awaitable[None]]


@asynccontextmanager
async def anthropic(handler: Handler, path: str = "") -> AsyncIterator[tuple[Anthropic, Server]]:
    async with serving(handler) as server:
        adapter = Anthropic(endpoint(server.url + path, "anthropic"), FakeClock())
        try:
            yield adapter, server
        finally:
            await adapter.close()


async def answers(request: Request) -> None:
    await request.answer(message([{"type": "text", "text": "Hello"}]), headers={"request-id": "req_abc"})


def streams(events: Iterable[dict[str, Any]], ends: bool = True) -> Handler:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        for event in events:
            await request.chunk(sse(event))
        if ends:
            await request.chunk(b"")
        else:
            request.reset()

    return handler


async def collect(handler: Handler, **changes: Any) -> tuple[list[dict[str, Any]], UpstreamError | None]:
    """The chunks that came, as the openai SDK takes them, and how the stream broke if it did."""
    chunks, failure = [], None
    async with anthropic(handler) as (adapter, _):
        stream = await adapter.open_stream(call(**changes))
        try:
            async for payload in payloads_of(stream):
                chunks.append(orjson.loads(payload))
        except UpstreamError as error:
            failure = error
        await stream.close()
        await stream.close()
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
    return chunks, failure


def deltas(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def finishes(chunks: list[dict[str, Any]]) -> list[str]:
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    return [reason for reason in reasons if reason]


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_a_call(path: str) -> None:
    async with anthropic(answers, path) as (adapter, server):
        answer = await adapter.send(call())
    sent = server.requests[0]
    assert sent.path == "/v1/messages"
    assert sent.headers["x-api-key"] == "key-0123456789"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["helicone-request-id"] == id_to_uuid(ATTEMPT)
    assert "authorization" not in sent.headers
    assert valid_request(sent.json)["model"] == "up/stream"
    assert "stream" not in sent.json
    said = ChatCompletion.model_validate(answer.body)
    assert (said.choices[0].message.content, said.created) == ("Hello", 1_795_395_600)


async def test_embeddings_are_refused_before_anything_is_sent() -> None:
    async with anthropic(answers) as (adapter, server):
        for ask in (adapter.send, adapter.open_stream):
            with pytest.raises(UpstreamError) as caught:
                await ask(call({"input": "x"}, operation="embeddings"))
            assert caught.value.kind is FailureKind.REJECTED
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "kind_of_error", "kind"),
    [
        (400, "invalid_request_error", FailureKind.REJECTED),
        (401, "authentication_error", FailureKind.UNAUTHORIZED),
        (403, "permission_error", FailureKind.UNAUTHORIZED),
        (404, "not_found_error", FailureKind.NOT_FOUND),
        (413, "request_too_large", FailureKind.REJECTED),
        (429, "rate_limit_error", FailureKind.RATE_LIMITED),
        (500, "api_error", FailureKind.UNAVAILABLE),
        (504, "timeout_error", FailureKind.TIMEOUT),
        (529, "overloaded_error", FailureKind.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_documented_errors(status: int, kind_of_error: str, kind: FailureKind, stream: bool) -> None:
    async def handler(request: Request) -> None:
        error = {"type": "error", "error": {"type": kind_of_error, "message": "m"}, "request_id": "req_1"}
        await request.answer(error, status, {"Retry-After": "4"})

    async with anthropic(handler) as (adapter, _):
        with pytest.raises(UpstreamError) as caught:
            await (adapter.open_stream(call()) if stream else adapter.send(call()))
    assert (caught.value.kind, caught.value.status, caught.value.vendor_code) == (kind, status, kind_of_error)
    assert caught.value.retry_after_s == 4.0


@pytest.mark.parametrize("body", [b"<html>", [1], {"type": "message"}, b""])
async def test_garbage_is_broken(body: object) -> None:
    async def handler(request: Request) -> None:
        await request.answer(body)

    async with anthropic(handler) as (adapter, _):
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call())
    assert caught.value.kind is FailureKind.BROKEN


async def test_a_stream_of_text() -> None:
    async with anthropic(streams(HELLO)) as (adapter, server):
        stream = await adapter.open_stream(call())
        chunks = [orjson.loads(payload) async for payload in payloads_of(stream)]
    assert server.requests[0].json["stream"] is True
    assert server.requests[0].headers["accept-encoding"] == "identity"
    assert deltas(chunks) == [{"role": "assistant", "content": ""}, {"content": "Hello"}, {"content": "!"}, {}]
    assert finishes(chunks) == ["stop"]
    assert {(c["id"], c["model"], c["object"], c["created"]) for c in chunks} == {
        ("msg_1", "claude-x-20260101", "chat.completion.chunk", 1_795_395_600)
    }
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 25,
        "completion_tokens": 15,  # not 1 + 15: what message_delta says is cumulative
        "total_tokens": 40,
        "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    }
    assert all("usage" not in chunk for chunk in chunks[:-1])


async def test_a_stream_of_tools() -> None:
    chunks, failure = await collect(streams(WEATHER))
    assert failure is None
    assert finishes(chunks) == ["tool_calls"]
    calls: dict[int, list[Any]] = {}
    for piece in (piece for d in deltas(chunks) for piece in d.get("tool_calls", ())):
        known = calls.setdefault(piece["index"], [piece.get("id"), piece["function"].get("name"), ""])
        known[2] += piece["function"]["arguments"]
    assert calls == {0: ["toolu_1", "get_weather", '{"location": "Paris"}'], 1: ["toolu_2", "get_time", "{}"]}


async def test_thoughts_are_not_shown() -> None:
    chunks, _ = await collect(streams([start(), *thinking_block(0), *text_block(1, "42"), delta("end_turn", 9), STOP]))
    assert deltas(chunks) == [{"role": "assistant", "content": ""}, {"content": "42"}, {}]


async def test_usage_is_replaced_not_added() -> None:
    events = [
        start(cache_read_input_tokens=100, cache_creation_input_tokens=30),
        *text_block(0, "Hi"),
        delta(None, 4),
        delta("max_tokens", 9, input_tokens=26, cache_read_input_tokens=100),
        STOP,
    ]
    chunks, _ = await collect(streams(valid_events(events)))
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 156,
        "completion_tokens": 9,
        "total_tokens": 165,
        "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 30},
    }
    assert finishes(chunks) == ["length"]  # said once, although there were two message_deltas


async def test_a_stream_without_usage_has_none() -> None:
    events = [
        {"type": "message_start", "message": {"id": "m", "model": "x"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
        STOP,
    ]
    chunks, failure = await collect(streams(events))
    assert failure is None
    assert all("usage" not in chunk for chunk in chunks)
    assert finishes(chunks) == ["stop"]


@pytest.mark.parametrize(
    ("kind_of_error", "kind"),
    [
        ("overloaded_error", FailureKind.BROKEN),
        ("api_error", FailureKind.BROKEN),
        ("rate_limit_error", FailureKind.BROKEN),
    ],
)
async def test_an_error_in_the_stream(kind_of_error: str, kind: FailureKind) -> None:
    error = {"type": "error", "error": {"type": kind_of_error, "message": "Sorry"}}
    chunks, failure = await collect(streams([start(), *text_block(0, "Hel"), error]))
    assert deltas(chunks)[1:] == [{"content": "Hel"}]
    assert failure is not None
    assert (failure.kind, failure.message, failure.vendor_code) == (kind, "Sorry", kind_of_error)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("count", range(len(HELLO)))
async def test_a_stream_without_its_end_mark_is_broken(count: int, ends: bool) -> None:
    _, failure = await collect(streams(HELLO[:count], ends))
    assert failure is not None and failure.kind is FailureKind.BROKEN


@pytest.mark.parametrize("garbage", [b"{", b"[1]", b"7", b"null"])
async def test_an_event_that_is_none_is_broken(garbage: bytes) -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event(garbage)
        await request.chunk(b"")

    _, failure = await collect(handler)
    assert failure is not None and failure.kind is FailureKind.BROKEN


async def test_pings_come_to_nothing_but_show_life() -> None:
    """Anthropic sends pings while the model thinks: longer than the timeout in sum, never between two."""

    async def handler(request: Request) -> None:
        await request.begin_stream()
        for _ in range(8):
            await request.chunk(sse(PING))
            await asyncio.sleep(0.1)
        for event in HELLO:
            await request.chunk(sse(event))
        await request.chunk(b"")

    chunks, failure = await collect(handler, timeout_s=0.5)
    assert failure is None
    assert finishes(chunks) == ["stop"]


async def test_a_stall_is_a_timeout() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.chunk(sse(start()))
        await request.gone()

    chunks, failure = await collect(handler, timeout_s=0.2)
    assert len(chunks) == 1
    assert failure is not None and failure.kind is FailureKind.TIMEOUT


async def test_what_follows_the_end_is_not_passed_on() -> None:
    chunks, failure = await collect(streams([*HELLO, *HELLO]))
    assert failure is None
    assert finishes(chunks) == ["stop"]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "something_new", "x": 1},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "something_new"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "something_new"}},
        {"type": "content_block_delta", "index": 0, "delta": None},
        {"type": "content_block_stop", "index": 0},
        {},
    ],
)
def test_what_may_be_added_to_the_api_comes_to_nothing(event: dict[str, Any]) -> None:
    assert StreamConverter(0).feed(orjson.dumps(event)) == []


def test_a_tool_whose_input_comes_whole() -> None:
    converter = StreamConverter(0)
    events = tool_block(0, "t", "f")
    events[0]["content_block"]["input"] = {"x": 1}
    chunks = [chunk for event in events for chunk in converter.feed(orjson.dumps(event))]
    assert deltas(chunks)[-1]["tool_calls"][0] == {"index": 0, "function": {"arguments": '{"x":1}'}}


def test_our_examples_are_checked() -> None:
    """The SDK's types, by which this file judges, do refuse what is wrong."""
    with pytest.raises(ValueError):
        valid_events([{"type": "message_delta", "delta": {"stop_reason": "because"}, "usage": {"output_tokens": 1}}])
    with pytest.raises(ValueError):
        valid_request({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "text"}]}]})
    with pytest.raises(AssertionError):
        valid_request({"model": "m", "max_tokens": 1, "messages": [], "seed": 1})
