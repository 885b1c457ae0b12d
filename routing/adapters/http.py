"""HTTP to one endpoint, over pooled connections.

Failure policy: what matters about a failure is whether the provider can have got the request. Until its first byte
goes out, nothing can be charged (NOT_SENT). From then on a deadline is TIMEOUT and everything else BROKEN, also a
kept connection that the server closes without a word: it may have got the request all the same. Nothing is sent
twice here. Answers are read in pieces, decompressed ones too, and never beyond a limit.

The way of a call, in a process that makes thousands of them a second (see docs/decisions/0006-upstream-client.md):

1. `HttpClient` takes the connection that was used last, or opens one, or waits for its turn;
2. `Connection.begin` sends the request in one write, and the caller waits for one future;
3. `Connection.data_received` reads the answer as it comes and gives the connection back before the caller wakes;
4. a stream's pieces go from there to its `EventSource`, from which the caller takes what has come.
"""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import Coroutine, Mapping
from typing import Any

from routing.adapters.http_connect import Addresses
from routing.adapters.http_events import EventSource
from routing.adapters.http_exchange import Connection
from routing.adapters.http_head import Origin, header_lines
from routing.adapters.http_tls import client_context
from routing.adapters.http_types import MAX_ANSWER_BYTES, MAX_EVENT_BYTES, Headers, HttpRequest, Reply, broken
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_EVENT_BYTES",
    "EventSource",
    "Headers",
    "HttpClient",
    "HttpRequest",
    "Reply",
    "broken",
    "header_lines",
]

#: Below the smallest usual keep-alive of servers (5 s): a request on a connection that the server is just closing
#: is ambiguous, and ambiguity is charged.
_KEEP_ALIVE_S = 4.0
_CLOSE_S = 1.0


class HttpClient:
    """One endpoint's connections, made inside the running loop as they are needed.

    name: of the endpoint. base_url: if it is not the endpoint's own.

    Raises:
        ConfigError: requests can't be made from this URL.
    """

    def __init__(self, endpoint: Endpoint, base_url: str | None = None) -> None:
        self.name = endpoint.name
        self._origin = Origin(endpoint.base_url if base_url is None else base_url)
        self._addresses = Addresses(self._origin.host, self._origin.port)
        self._connect_timeout_s = endpoint.connect_timeout_s
        self._max_connections = endpoint.max_connections
        self._tls: ssl.SSLContext | None = None
        # The loop is looked up once: asking for the running one is a system call (getpid) in each Python before 3.12.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slots = 0  # connections that can be used, or are being made
        self._idle: list[Connection] = []  # the one that was used last is last
        self._queue: deque[asyncio.Future[Connection | None]] = deque()
        self._all: set[Connection] = set()  # until their sockets are closed
        self._draining: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None

    def now_s(self) -> float:
        """The running loop's clock, for `HttpRequest.deadline_s`."""
        return (self._loop or self._bind()).time()

    def head(self, path: str, headers: Mapping[str, str], *, streaming: bool = False) -> bytes:
        """How requests to a path begin, for `HttpRequest.head`; `header_lines` may be added.

        Raises:
            UpstreamError: NOT_SENT, a header or the path can't be sent.
        """
        return self._origin.head(path, headers, streaming=streaming)

    def post(self, request: HttpRequest) -> Coroutine[Any, Any, Reply]:
        """Send and read the whole answer, whatever its status.

        Raises:
            UpstreamError: NOT_SENT, TIMEOUT or BROKEN.
        """
        return self._respond(request, False)

    def open(self, request: HttpRequest) -> Coroutine[Any, Any, Reply | EventSource]:
        """Send and read up to the headers: a stream for a 2xx, a reply for any other status.

        Raises:
            UpstreamError: NOT_SENT, TIMEOUT or BROKEN.
        """
        return self._respond(request, True)

    async def close(self) -> None:
        """Drop all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._addresses.close()
        for connection in tuple(self._all):
            connection.fail(broken(f"the endpoint {self.name} was closed"))
        if self._all:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._emptied}, timeout=_CLOSE_S)
        self._loop = None

    async def _respond(self, request: HttpRequest, streaming: bool) -> Any:
        loop = self._loop or self._bind()
        now_s = loop.time()
        if now_s >= request.deadline_s:
            raise self._not_sent("TimeoutError")
        connection = self._take_idle(now_s) or await self._connection(loop, request.deadline_s)
        waiter = connection.begin(request, streaming=streaming)
        try:
            return await waiter
        except asyncio.CancelledError:
            connection.leave(waiter)
            raise

    def _bind(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    def _take_idle(self, now_s: float) -> Connection | None:
        """The connection that was used last, if it can still be used. With a queue none is idle."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if now_s - connection.idle_since_s < _KEEP_ALIVE_S and connection.usable():
                return connection
            connection.abort()
        return None

    async def _connection(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> Connection:
        """A new connection, or the first that becomes free.

        Raises:
            UpstreamError: NOT_SENT.
        """
        try:
            async with asyncio.timeout_at(min(deadline_s, loop.time() + self._connect_timeout_s)):
                while True:
                    if self._slots < self._max_connections:
                        self._slots += 1
                    else:
                        given = await self._wait_in_queue(loop)
                        if given is not None:
                            if given.usable():
                                return given
                            given.abort()
                            continue
                    return await self._connect(loop)
        except OSError as error:  # TimeoutError and ssl.SSLError are OSErrors
            raise self._not_sent(type(error).__name__) from error

    async def _wait_in_queue(self, loop: asyncio.AbstractEventLoop) -> Connection | None:
        """A connection; or None, a slot to make one in."""
        turn: asyncio.Future[Connection | None] = loop.create_future()
        self._queue.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it was given something that it can't use any more
                given = turn.result()
                if given is None:
                    self._free_slot()
                elif not given.closed:
                    self.release(given)
            with contextlib.suppress(ValueError):
                self._queue.remove(turn)
            raise

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> Connection:
        """A new connection in a slot that is counted already; the slot is freed if there is none."""
        origin = self._origin
        options: dict[str, Any] = {}
        if origin.tls:
            self._tls = self._tls or client_context()
            options = {"ssl": self._tls, "server_hostname": origin.host}
        try:
            sock = await self._addresses.connect(loop)
            _, connection = await loop.create_connection(lambda: Connection(self, loop), sock=sock, **options)
            if not connection.usable():  # closed between the handshake and here
                connection.abort()
                raise ConnectionResetError
        except BaseException:
            self._free_slot()
            raise
        self._all.add(connection)
        return connection

    # What connections tell.

    def release(self, connection: Connection) -> None:
        """The connection is free: for who has waited longest, or kept."""
        if connection.draining:
            connection.draining = False
            self._draining.discard(connection)
        queue = self._queue
        while queue:
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(connection)
                return
        loop = self._loop or self._bind()
        connection.idle_since_s = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(_KEEP_ALIVE_S, self._drop_old)

    def lost(self, connection: Connection) -> None:
        """The connection can't be used any more; another may take its place."""
        if connection not in self._all:  # it never was one of ours; see `_connect`
            return
        self._draining.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._free_slot()

    def gone(self, connection: Connection) -> None:
        """The connection's socket is closed."""
        self._all.discard(connection)
        if not self._all and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def drains(self, connection: Connection) -> None:
        """The connection may become free, if its answer ends soon."""
        self._draining.add(connection)

    def _free_slot(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._slots -= 1

    def _drop_old(self) -> None:
        """Drop what nobody has used for long; the oldest are first."""
        loop = self._loop or self._bind()
        self._sweep = None
        oldest_s = loop.time() - _KEEP_ALIVE_S
        while self._idle and self._idle[0].idle_since_s <= oldest_s + 0.001:
            self._idle[0].abort()
        if self._idle:
            self._sweep = loop.call_at(self._idle[0].idle_since_s + _KEEP_ALIVE_S, self._drop_old)

    def _not_sent(self, what: str) -> UpstreamError:
        return UpstreamError(FailureKind.NOT_SENT, f"no connection to the endpoint {self.name} ({what})")
