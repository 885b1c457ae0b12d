"""What goes wrong on the wire, and what each thing counts as."""

import asyncio
import contextlib
import gzip
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest

from core.clock import SystemClock
from routing.adapters.openai_compatible import OpenAICompatible
from routing.errors import FailureKind, UpstreamError
from tests.routing.servers import ANSWER, Request, Server, call, endpoint, gzip_bomb, serving

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def failing(url: str, timeout_s: float = 5.0, **changes: object) -> UpstreamError:
    adapter = OpenAICompatible(endpoint(url, **changes), SystemClock())
    try:
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call(timeout_s=timeout_s))
        return caught.value
    finally:
        await adapter.close()


async def failure_of(handler: Callable[[Request], Awaitable[None]], timeout_s: float = 5.0) -> UpstreamError:
    async with serving(handler) as server:
        return await failing(server.url, timeout_s)


async def test_nobody_listens() -> None:
    async with serving(Request.gone) as server:
        url = server.url
    assert (await failing(url)).kind is FailureKind.NOT_SENT


async def test_a_host_that_does_not_exist() -> None:
    assert (await failing("http://no-such-host.invalid")).kind is FailureKind.NOT_SENT


@pytest.mark.parametrize(("connect_timeout_s", "timeout_s"), [(0.2, 5.0), (5.0, 0.2)])
async def test_a_handshake_that_never_ends_was_never_sent(connect_timeout_s: float, timeout_s: float) -> None:
    """The server takes the connection and says nothing: TLS never comes about, whichever deadline ends it."""

    gone = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
            writer.close()
            await writer.wait_closed()
        gone.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        began_s = time.monotonic()
        error = await failing(f"https://127.0.0.1:{port}", timeout_s, connect_timeout_s=connect_timeout_s)
        assert time.monotonic() - began_s < 4
        async with asyncio.timeout(1):
            await gone.wait()
    assert error.kind is FailureKind.NOT_SENT


async def test_no_answer_in_time() -> None:
    error = await failure_of(Request.gone, timeout_s=0.2)
    assert error.kind is FailureKind.TIMEOUT


async def test_half_an_answer_in_time() -> None:
    async def handler(request: Request) -> None:
        await request.send(HEAD + b'Content-Length: 100\r\n\r\n{"choices"')
        await request.gone()

    assert (await failure_of(handler, timeout_s=0.2)).kind is FailureKind.TIMEOUT


async def closed(request: Request) -> None:
    request.writer.close()


async def reset_in_the_body(request: Request) -> None:
    await request.send(HEAD + b'Content-Length: 100\r\n\r\n{"choices"')
    request.reset()


async def closed_in_the_body(request: Request) -> None:
    await request.send(HEAD + b'Content-Length: 100\r\n\r\n{"choices"')
    request.writer.close()


async def closed_in_a_chunk(request: Request) -> None:
    await request.send(HEAD + b'Transfer-Encoding: chunked\r\n\r\n50\r\n{"choices"')
    request.writer.close()


async def nonsense_chunk(request: Request) -> None:
    await request.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")


async def nonsense_status(request: Request) -> None:
    await request.send(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def not_gzip(request: Request) -> None:
    await request.answer(b"plain", headers={"Content-Encoding": "gzip"})


async def cut_gzip(request: Request) -> None:
    await request.answer(gzip.compress(b'{"choices":[]}' * 99)[:-20], headers={"Content-Encoding": "gzip"})


async def no_json(request: Request) -> None:
    await request.answer(b"<html>It works!</html>")


async def invalid_utf8(request: Request) -> None:
    await request.answer(b'{"choices": "\xff\xfe"}')


async def a_list(request: Request) -> None:
    await request.answer([ANSWER])


async def nothing(request: Request) -> None:
    await request.answer(b"", status=200)


async def deep(request: Request) -> None:
    await request.answer(b"[" * 200_000)


async def an_error_with_200(request: Request) -> None:
    await request.answer({"error": {"message": "upstream exploded", "code": 502}})


@pytest.mark.parametrize(
    "handler",
    [
        closed,
        reset_in_the_body,
        closed_in_the_body,
        closed_in_a_chunk,
        nonsense_chunk,
        nonsense_status,
        not_gzip,
        cut_gzip,
        no_json,
        invalid_utf8,
        a_list,
        nothing,
        deep,
        an_error_with_200,
    ],
)
async def test_garbage_may_have_been_charged(handler: Callable[[Request], Awaitable[None]]) -> None:
    assert (await failure_of(handler)).kind is FailureKind.BROKEN


async def test_a_kept_connection_that_closes_without_a_word_is_not_tried_again() -> None:
    async def handler(request: Request) -> None:
        if len(server.requests) == 1:
            await request.answer(ANSWER)
        else:
            request.writer.close()

    async with serving(handler) as server:
        adapter = OpenAICompatible(endpoint(server.url), SystemClock())
        await adapter.send(call())
        with pytest.raises(UpstreamError) as caught:
            await adapter.send(call())
        await adapter.close()
    assert caught.value.kind is FailureKind.BROKEN
    assert len(server.requests) == 2
    assert server.connections == 1


async def test_an_answer_without_end_is_cut_off() -> None:
    """A hundred megabytes, and a gzip bomb of as many: refused, and never in memory."""

    async def plain(request: Request) -> None:
        await request.send(HEAD + b"Content-Length: 104857600\r\n\r\n")
        for _ in range(100):
            await request.send(bytes(1024 * 1024))

    bomb = gzip_bomb(100 * 1024 * 1024)

    async def compressed(request: Request) -> None:
        await request.answer(bomb, headers={"Content-Encoding": "gzip"})

    for handler in (plain, compressed):
        tracemalloc.start()
        error = await failure_of(handler)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert error.kind is FailureKind.BROKEN
        assert "larger than" in error.message
        assert peak < 60 * 1024 * 1024


async def test_a_refusal_counts_by_its_status_also_when_it_breaks_off() -> None:
    async def handler(request: Request) -> None:
        await request.send(b'HTTP/1.1 503 X\r\nContent-Length: 100\r\nRetry-After: 7\r\n\r\n{"mess')
        request.writer.close()

    error = await failure_of(handler)
    assert (error.kind, error.status, error.retry_after_s) == (FailureKind.UNAVAILABLE, 503, 7.0)


async def test_a_redirect_is_not_followed_with_our_key() -> None:
    async def handler(request: Request) -> None:
        await request.answer(b"", status=307, headers={"Location": "/elsewhere"})

    async with serving(handler) as server:
        assert (await failing(server.url)).kind is FailureKind.NOT_FOUND
    assert [r.path for r in server.requests] == ["/chat/completions"]


async def test_a_call_that_is_cancelled_drops_its_connection() -> None:
    gone, came = asyncio.Event(), asyncio.Event()

    async def handler(request: Request) -> None:
        came.set()
        await request.gone()
        gone.set()

    async with serving(handler) as server:
        adapter = OpenAICompatible(endpoint(server.url), SystemClock())
        task = asyncio.create_task(adapter.send(call()))
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(1):
            await gone.wait()
        await adapter.close()


async def test_connections_are_kept_and_limited() -> None:
    at_once, most = 0, 0

    async def handler(request: Request) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        await request.answer(ANSWER)

    async def run(server: Server) -> None:
        adapter = OpenAICompatible(endpoint(server.url, max_connections=3), SystemClock())
        await asyncio.gather(*(adapter.send(call()) for _ in range(30)))
        await adapter.close()

    async with serving(handler) as server:
        await run(server)
    assert most <= 3
    assert server.connections == 3
