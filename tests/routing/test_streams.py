"""Streams: as they come, to their end mark, and gone at once when nobody wants them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest

from core.clock import SystemClock
from routing.adapters.openai_compatible import OpenAICompatible
from routing.adapters.openai_wire import OpenAIStream
from routing.adapters.sse import EventDecoder, EventTooLarge
from routing.errors import FailureKind, UpstreamError
from tests.routing.servers import ATTEMPT, Request, Server, call, endpoint, serving
from tests.support.streams import payloads_of

Handler = Callable[[Request], Awaitable[None]]


async def opened(server: Server, **changes: Any) -> tuple[OpenAICompatible, OpenAIStream]:
    adapter = OpenAICompatible(endpoint(server.url), SystemClock())
    return adapter, await adapter.open_stream(call(**changes))


async def collect(handler: Handler, **changes: Any) -> tuple[list[Any], UpstreamError | None]:
    """What came, and how it broke if it did."""
    async with serving(handler) as server:
        adapter, stream = await opened(server, **changes)
        events, failure = [], None
        try:
            async for payload in payloads_of(stream):
                events.append(orjson.loads(payload))
        except UpstreamError as error:
            failure = error
        await stream.close()
        await stream.close()
        await adapter.close()
    return events, failure


async def test_events_pass_as_they_come() -> None:
    """The server sends an event only once the client has the one before."""
    taken = asyncio.Semaphore(0)

    async def handler(request: Request) -> None:
        await request.begin_stream()
        for number in range(5):
            await request.event({"n": number})
            await taken.acquire()
        await request.end_stream()

    async with serving(handler) as server:
        adapter, stream = await opened(server)
        numbers = []
        async for payload in payloads_of(stream):
            numbers.append(orjson.loads(payload)["n"])
            taken.release()
        await adapter.close()
    assert numbers == [0, 1, 2, 3, 4]
    sent = server.requests[0]
    assert sent.json["stream"] is True
    assert sent.json["stream_options"] == {"include_usage": True}
    assert sent.headers["x-client-request-id"] == ATTEMPT
    assert sent.headers["accept-encoding"] == "identity"


async def test_the_connection_is_used_again_after_the_end_mark() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event({})
        await request.event(b"[DONE]")
        await asyncio.sleep(0.01)  # as servers do, the end of the body comes in a packet of its own
        await request.chunk(b"")

    async with serving(handler) as server:
        adapter = OpenAICompatible(endpoint(server.url), SystemClock())
        for _ in range(3):
            stream = await adapter.open_stream(call())
            assert [p async for p in payloads_of(stream)] == [b"{}"]
            await stream.close()
            async with asyncio.timeout(1):
                while adapter._http._draining:
                    await asyncio.sleep(0.005)
        await adapter.close()
    assert server.connections == 1


async def test_closing_drops_the_connection_at_once() -> None:
    gone = asyncio.Event()

    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event({})
        await request.gone()
        gone.set()

    async with serving(handler) as server:
        adapter, stream = await opened(server)
        events = payloads_of(stream)
        assert await anext(events) == b"{}"
        await stream.close()
        async with asyncio.timeout(1):
            await gone.wait()
        with pytest.raises(UpstreamError):
            await anext(events)
        await adapter.close()


async def test_a_stream_that_ends_without_its_mark_is_broken() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event({"n": 1})
        await request.chunk(b"")

    events, failure = await collect(handler)
    assert events == [{"n": 1}]
    assert failure is not None and failure.kind is FailureKind.BROKEN


async def test_the_end_mark_needs_no_blank_line() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event({"n": 1})
        await request.chunk(b"data: [DONE]")
        await request.chunk(b"")

    assert await collect(handler) == ([{"n": 1}], None)


async def test_a_reset_is_broken() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event({"n": 1})
        request.reset()

    _, failure = await collect(handler)
    assert failure is not None and failure.kind is FailureKind.BROKEN


@pytest.mark.parametrize("events_before", [0, 2])
async def test_a_stall_is_a_timeout(events_before: int) -> None:
    """Comments are no events: they keep nothing alive."""

    async def handler(request: Request) -> None:
        await request.begin_stream()
        for _ in range(events_before):
            await request.event({})
        while not request.writer.is_closing():
            await request.chunk(b": ping\n\n")
            await asyncio.sleep(0.02)

    events, failure = await collect(handler, timeout_s=1.0)
    assert len(events) == events_before
    assert failure is not None and failure.kind is FailureKind.TIMEOUT


async def test_a_long_stream_may_take_longer_than_the_timeout() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        for _ in range(10):
            await request.event({})
            await asyncio.sleep(0.15)
        await request.end_stream()

    events, failure = await collect(handler, timeout_s=1.0)
    assert (len(events), failure) == (10, None)


async def test_an_event_without_end_is_broken() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.chunk(b"data: ")
        while not request.writer.is_closing():
            await request.chunk(b"x" * 262_144)

    _, failure = await collect(handler)
    assert failure is not None and failure.kind is FailureKind.BROKEN
    assert "larger than" in failure.message


async def test_an_error_in_the_stream_is_told() -> None:
    async def handler(request: Request) -> None:
        await request.begin_stream()
        await request.event({"n": 1})
        await request.event({"error": {"message": "CUDA is sad", "code": "engine_dead"}})
        await request.end_stream()

    events, failure = await collect(handler)
    assert events == [{"n": 1}]
    assert failure is not None
    assert (failure.kind, failure.message, failure.vendor_code) == (FailureKind.BROKEN, "CUDA is sad", "engine_dead")


async def test_a_refused_stream_is_sorted_by_its_status() -> None:
    async def handler(request: Request) -> None:
        await request.answer({"error": {"message": "busy"}}, 429, {"Retry-After": "3"})

    async with serving(handler) as server:
        adapter = OpenAICompatible(endpoint(server.url), SystemClock())
        with pytest.raises(UpstreamError) as caught:
            await adapter.open_stream(call())
        await adapter.close()
    assert (caught.value.kind, caught.value.retry_after_s) == (FailureKind.RATE_LIMITED, 3.0)


TEXT = b': hello\r\ndata: {"a":1}\r\n\r\nevent: x\ndata:{"b":2}\n\nid: 7\n\ndata: {"c":\ndata: 3}\n\ndata: [DONE]\n\n'
PAYLOADS = [b'{"a":1}', b'{"b":2}', b'{"c":\n3}', b"[DONE]"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(TEXT)])
def test_events_do_not_depend_on_how_they_are_cut(size: int) -> None:
    decoder = EventDecoder(1000)
    found = [p for at in range(0, len(TEXT), size) for p in decoder.feed(TEXT[at : at + size])]
    assert found == PAYLOADS
    assert decoder.finish() is None


def test_an_event_of_many_lines_is_bounded_too() -> None:
    decoder = EventDecoder(1000)
    with pytest.raises(EventTooLarge):
        for _ in range(200):
            decoder.feed(b"data: 123456789\n")


def test_many_events_in_one_piece_are_not_one_event() -> None:
    assert len(EventDecoder(1000).feed(b"data: 123456789\n\n" * 200)) == 200
