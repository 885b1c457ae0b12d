"""A server that sends bytes as they are, and a client to talk to it with."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from routing.adapters.http import EventSource, HttpClient, HttpRequest, Reply
from routing.model import Endpoint

OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"Transfer-Encoding: chunked\r\n\r\n"

Turn = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """Calls `turn` for each request. connections: accepted so far. requests: bodies and heads so far."""

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.gone = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self.turn(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.gone += 1
            writer.close()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self.writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def raw_server(turn: Turn, **options: Any) -> AsyncIterator[RawServer]:
    server = RawServer(turn)
    listening = await asyncio.start_server(server.connected, "127.0.0.1", 0, **options)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        await server.stop()


def says(*pieces: bytes, close: bool = False) -> Turn:
    """A turn that sends these bytes, each in a packet of its own, and then closes if asked to."""

    async def turn(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.005)
        if close:
            writer.close()

    return turn


@contextlib.asynccontextmanager
async def client_of(port: int, scheme: str = "http", **changes: Any) -> AsyncIterator[HttpClient]:
    client = HttpClient(Endpoint("e", "openai", f"{scheme}://127.0.0.1:{port}", **changes))
    try:
        yield client
    finally:
        await client.close()


async def post(client: HttpClient, timeout_s: float = 2.0, content: bytes = b"{}") -> Reply:
    return await client.post(HttpRequest(client.head("/x", {}), content, client.now_s() + timeout_s, timeout_s))


async def open_stream(client: HttpClient, timeout_s: float = 2.0) -> Reply | EventSource:
    head = client.head("/x", {}, streaming=True)
    return await client.open(HttpRequest(head, b"{}", client.now_s() + timeout_s, timeout_s))


async def until(condition: Callable[[], object], within_s: float = 2.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.005)
