"""What a call to a provider costs the process that makes it, by HTTP client.

    python -m bench.upstream_client [--rounds 5] [--calls 4000] [--streams 40] [--chunks 400] [--loop uvloop]

A small server in another process answers every POST with 1 KB of JSON, or with a stream of chunks of 200 bytes that
come one at a time. Each client of this process makes the same calls over kept connections, in turn, round after round;
what counts is this process's CPU time. Printed are the medians over the rounds: µs of CPU for each call and for each
chunk of a stream, and their ratios to ours. The row "bare" reads the same bytes and understands nothing: what the event
loop itself costs. A client that is not installed is left out.
"""

import argparse
import asyncio
import contextlib
import gc
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, cast

import aiohttp
import orjson
import uvloop

from routing.adapters.http import EventSource, HttpClient, HttpRequest
from routing.adapters.openai_wire import JSON_HEADERS
from routing.model import Endpoint

_QUESTION = orjson.dumps({"messages": [{"role": "user", "content": "x" * 950}], "max_tokens": 100})
_ANSWER = orjson.dumps({"id": "chatcmpl-1", "choices": [{"message": {"content": "y" * 900}}], "usage": {"n": 1}})
_ANSWER_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: Mon, 23 Nov 2026 08:00:00 GMT\r\n"
    b"x-request-id: 0c9d8e7f\r\nContent-Length: %d\r\n\r\n"
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENT = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"' + b"z" * 136 + b'"}}]}\n\n'
_CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
_END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
_PAUSE_S = 0.004


class _Server(asyncio.Protocol):
    """Answers each complete request; a path with a number is answered by a stream of as many chunks."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._got = b""
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        if not found or len(body) < length:
            return
        self._got = b""
        chunks = int(head.partition(b"/stream/")[2].partition(b" ")[0] or b"0")
        if chunks:
            task = asyncio.ensure_future(self._stream(chunks))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            self._transport.write(_ANSWER_HEAD % len(_ANSWER) + _ANSWER)

    async def _stream(self, chunks: int) -> None:
        self._transport.write(_STREAM_HEAD)
        for _ in range(chunks):
            self._transport.write(_CHUNK)
            await asyncio.sleep(_PAUSE_S)
        self._transport.write(_END)


def _serve(ready: "Connection[Any, Any]") -> None:
    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(main())


@dataclass(frozen=True, slots=True)
class Client:
    """call: one POST, read to its end. read: one stream, to its end; gives the number of events."""

    call: Callable[[], Any]
    read: Callable[[int], Any]


@contextlib.asynccontextmanager
async def _ours(port: int) -> AsyncIterator[Client]:
    http = HttpClient(Endpoint("bench", "openai", f"http://127.0.0.1:{port}"))
    headers = JSON_HEADERS | {"Authorization": "Bearer x"}
    head = http.head("/call", headers)

    async def call() -> None:
        reply = await http.post(HttpRequest(head, _QUESTION, http.now_s() + 290, 290))
        assert len(reply.body) == len(_ANSWER)

    async def read(chunks: int) -> int:
        stream_head = http.head(f"/stream/{chunks}", headers, streaming=True)
        source = await http.open(HttpRequest(stream_head, _QUESTION, http.now_s() + 290, 290))
        assert isinstance(source, EventSource)
        count = 0

        def take(payloads: list[bytes]) -> bool:
            nonlocal count
            count += len(payloads)
            return True

        await source.pour(take, asyncio.Event().wait)
        return count

    yield Client(call, read)
    await http.close()


@contextlib.asynccontextmanager
async def _aiohttp(port: int) -> AsyncIterator[Client]:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer x"}
    url = f"http://127.0.0.1:{port}"
    connector = aiohttp.TCPConnector(limit=512)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def call() -> None:
            async with (
                asyncio.timeout(290),
                session.post(url + "/call", data=_QUESTION, headers=headers, allow_redirects=False) as answer,
            ):
                assert len(await answer.read()) == len(_ANSWER)

        async def read(chunks: int) -> int:
            count = 0
            async with session.post(f"{url}/stream/{chunks}", data=_QUESTION, headers=headers) as answer:
                while True:
                    async with asyncio.timeout(290):
                        piece = await answer.content.readany()
                    if not piece:
                        return count
                    count += piece.count(b"\n\n")

        yield Client(call, read)


@contextlib.asynccontextmanager
async def _httpx(port: int) -> AsyncIterator[Client]:
    httpx: Any = importlib.import_module("httpx")  # nothing that development needs

    headers = {"Content-Type": "application/json", "Authorization": "Bearer x"}
    url = f"http://127.0.0.1:{port}"
    limits = httpx.Limits(max_connections=512, max_keepalive_connections=512)
    async with httpx.AsyncClient(timeout=290, limits=limits) as client:

        async def call() -> None:
            assert len((await client.post(url + "/call", content=_QUESTION, headers=headers)).content) == len(_ANSWER)

        async def read(chunks: int) -> int:
            count = 0
            async with client.stream("POST", f"{url}/stream/{chunks}", content=_QUESTION, headers=headers) as answer:
                async for piece in answer.aiter_raw():
                    count += piece.count(b"\n\n")
            return count

        yield Client(call, read)


class _Bare(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.count += data.count(b"\n\n")
        if self.count >= self.wanted or data.endswith((b"}", b"0\r\n\r\n")):
            self.done.set_result(self.count)

    def send(self, path: str) -> "asyncio.Future[int]":
        self.count, self.wanted = 0, 1 << 60
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(_QUESTION)}\r\n\r\n"
        self.transport.write(head.encode() + _QUESTION)
        return self.done


@contextlib.asynccontextmanager
async def _bare(port: int) -> AsyncIterator[Client]:
    loop = asyncio.get_running_loop()
    idle: list[_Bare] = []
    every: list[_Bare] = []

    async def ask(path: str) -> int:
        if not idle:
            idle.append((await loop.create_connection(_Bare, "127.0.0.1", port))[1])
            every.append(idle[-1])
        connection = idle.pop()
        count = await connection.send(path)
        idle.append(connection)
        return count

    async def read(chunks: int) -> int:
        return await ask(f"/stream/{chunks}")

    yield Client(lambda: ask("/call"), read)
    for connection in every:
        connection.transport.abort()


_CLIENTS: dict[str, Callable[[int], AbstractAsyncContextManager[Client]]] = {
    "ours": _ours,
    "aiohttp": _aiohttp,
    "httpx": _httpx,
    "bare": _bare,
}


async def _cpu_us(client: Client, options: argparse.Namespace) -> tuple[float, float]:
    """CPU for each call, eight at a time, and for each chunk of the streams, which all run at once."""

    async def calls(count: int) -> None:
        for _ in range(count):
            await client.call()

    await calls(50)
    gc.collect()
    began_s = time.process_time()
    await asyncio.gather(*(calls(options.calls // 8) for _ in range(8)))
    call_us = (time.process_time() - began_s) / (options.calls // 8 * 8) * 1e6
    began_s = time.process_time()
    counts = await asyncio.gather(*(client.read(options.chunks) for _ in range(options.streams)))
    chunk_us = (time.process_time() - began_s) / (options.chunks * options.streams) * 1e6
    assert all(options.chunks <= count <= options.chunks + 1 for count in counts), counts
    return call_us, chunk_us


async def _round(port: int, names: list[str], options: argparse.Namespace) -> dict[str, tuple[float, float]]:
    measured = {}
    for name in names:
        async with _CLIENTS[name](port) as client:
            measured[name] = await _cpu_us(client, options)
    return measured


def _installed() -> list[str]:
    return [name for name in _CLIENTS if name != "httpx" or importlib.util.find_spec(name)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=4000, help="of each client in each round")
    parser.add_argument("--streams", type=int, default=40, help="at once")
    parser.add_argument("--chunks", type=int, default=400, help="of each stream")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    ready, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port, names = ready.recv(), _installed()
    factory = uvloop.new_event_loop if options.loop == "uvloop" else asyncio.new_event_loop
    rounds = []
    with asyncio.Runner(loop_factory=factory) as runner:
        for number in range(options.rounds):  # the order turns, so that nobody is always first
            order = names[number % len(names) :] + names[: number % len(names)]
            rounds.append(runner.run(_round(port, order, options)))
    server.terminate()
    median = {n: [statistics.median(r[n][i] for r in rounds) for i in (0, 1)] for n in names}
    ours = median["ours"]
    print(f"{'client':10}{'µs a call':>12}{'ratio':>8}{'µs a chunk':>12}{'ratio':>8}   ({options.loop})")
    for name, (call_us, chunk_us) in median.items():
        print(f"{name:10}{call_us:12.1f}{call_us / ours[0]:8.2f}{chunk_us:12.1f}{chunk_us / ours[1]:8.2f}")


if __name__ == "__main__":
    main()
