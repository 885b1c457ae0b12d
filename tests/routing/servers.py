"""A small HTTP server that does exactly what a test says, byte by byte, and a clock that stands still."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from routing.model import Endpoint, Model
from routing.upstream import UpstreamCall

ATTEMPT = "hld_019a0000000085be8000000000000001"


class FakeClock:
    """Moves only when told. Begins at 2026-11-23T01:00:00Z."""

    def __init__(self) -> None:
        self.wall_ms = 1_795_395_600_000
        self.mono_s = 100.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic_s(self) -> float:
        return self.mono_s

    def pass_s(self, seconds: float) -> None:
        self.wall_ms += round(seconds * 1000)
        self.mono_s += seconds


@dataclass
class Request:
    """One request as it came, and the connection to answer on. headers: lower-case names."""

    path: str
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    reader: asyncio.StreamReader

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        """A complete answer; bytes as they are, anything else as JSON."""
        body = value if isinstance(value, bytes) else orjson.dumps(value)
        lines = [
            f"HTTP/1.1 {status} X",
            f"Content-Length: {len(body)}",
            *(f"{k}: {v}" for k, v in (headers or {}).items()),
        ]
        await self.send("\r\n".join([*lines, "", ""]).encode() + body)

    async def begin_stream(self) -> None:
        await self.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def event(self, value: object) -> None:
        await self.chunk(b"data: " + (value if isinstance(value, bytes) else orjson.dumps(value)) + b"\n\n")

    async def end_stream(self) -> None:
        await self.event(b"[DONE]")
        await self.chunk(b"")

    async def gone(self) -> None:
        """Returns when the client has dropped the connection."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1024):
                pass

    def reset(self) -> None:
        self.writer.transport.abort()


Handler = Callable[[Request], Awaitable[None]]


@dataclass
class Server:
    """Running. requests: all so far. connections: accepted so far."""

    url: str
    requests: list[Request] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    server = Server("")
    tasks: set[asyncio.Task[Any]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while not writer.is_closing():
                request = await _read(reader, writer)
                server.requests.append(request)
                await handler(request)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            tasks.discard(task)

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(first.split(" ")[1], headers, body, writer, reader)


MODEL = Model("m", "e", "up/stream")


def endpoint(url: str, kind: Any = "openai", **changes: Any) -> Endpoint:
    return Endpoint("e", kind, url, **({"api_key": "key-0123456789"} | changes))


def call(body: Mapping[str, Any] | None = None, **changes: Any) -> UpstreamCall:
    fields: dict[str, Any] = {
        "model": MODEL,
        "body": body or {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
        "operation": "chat",
        "attempt_id": ATTEMPT,
        "timeout_s": 5.0,
    }
    return UpstreamCall(**(fields | changes))


def gzip_bomb(zeros: int) -> bytes:
    """That many zero bytes, compressed a thousandfold."""
    return gzip.compress(bytes(zeros), 9)


ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}
