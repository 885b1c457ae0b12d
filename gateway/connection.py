"""A client's connection: HTTP/1.1 as uvicorn speaks it, bounded in time and memory, with a short way for hot routes.

A request on a hot route goes from the parser to `HotRoutes.serve` and its answer from there to the socket, without the
messages of ASGI between them; every other request takes uvicorn's own way to the application. Both are `cycles` to
uvicorn, which keeps their order on a connection, and drains them.

uvicorn waits for ever for the end of a request's headers, keeps headers of any size, and waits for ever for a client
that takes nothing of its answer. Here a client has `client_timeout_s` for the headers, as much again for the body, and
as much for each piece of an answer that it lets wait. After that its connection is closed, which ends its call as any
client's leaving does.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from gateway.hot import HotRoutes
from gateway.http import Headers, header_lines
from gateway.surfaces import Surface

log = logging.getLogger("spendgate.gateway")

MAX_HEAD_BYTES = 64 * 1024


class HotCycle(RequestResponseCycle):
    """A request on a hot route: a `gateway.http.Exchange`, and what uvicorn knows as a cycle."""

    path: str
    surface: Surface
    raw_headers: list[tuple[bytes, bytes]]
    connection: "Connection"
    hot: HotRoutes
    _pieces: list[bytes]
    gone = False
    on_leave: Callable[[], None] | None = None

    async def run_asgi(self, app: Any) -> None:
        """Serve it; uvicorn makes a task of this."""
        self.connection.serving = self
        try:
            await self.hot.serve(self.surface, self)
        except asyncio.CancelledError:
            self.transport.close()
            raise
        except BaseException:
            log.exception("a call ended with an error that is not the client's")
            if self.response_started:
                self.transport.close()
            else:
                self.answer(500, {"Connection": "close"}, b"")

    def leave(self) -> None:
        """The client has gone away."""
        self.gone = True
        if self.on_leave is not None and not self.response_complete:
            self.on_leave()

    async def receive(self) -> Any:
        """What comes next of the body."""
        return await super().receive()

    def whole_body(self) -> bytes | None:
        """The body, if it has come to its end already; it is given out once."""
        if self.more_body:
            return None
        body, self.body = bytes(self.body), bytearray()  # an idle connection keeps its last cycle, but not this
        return body

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""
        lines = header_lines(headers)
        self._send_last(b"".join((self._head(status, headers), lines, b"content-length: %d\r\n\r\n" % len(body), body)))

    def begin(self, status: int, headers: Headers) -> None:
        """The head of an answer in pieces."""
        lines = header_lines(headers)
        self._send(b"".join((self._head(status, headers), lines, b"transfer-encoding: chunked\r\n\r\n")))

    def write(self, data: bytes) -> None:
        """A piece of it; what comes in one turn of the loop goes out as one."""
        if not self._pieces:
            self.connection.loop.call_soon(self._flush)
        self._pieces.append(data)

    async def drained(self) -> None:
        """Return once the client has taken enough of what was written."""
        if self.flow.write_paused and not self.gone:
            await self.flow.drain()

    def end(self, data: bytes) -> None:
        """The last piece."""
        self._send_last(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

    def _flush(self) -> None:
        if not self._pieces:  # the last piece has taken them along
            return
        data, self._pieces = b"".join(self._pieces), []
        self._send(b"%x\r\n%b\r\n" % (len(data), data))

    def _head(self, status: int, headers: Headers) -> bytes:
        head = STATUS_LINE[status] + self.connection.default_lines()
        if "Connection" in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            head += b"connection: close\r\n"
        return head

    def _send(self, data: bytes) -> None:
        self.response_started = True
        if not self.gone:
            self.transport.write(data)

    def _send_last(self, data: bytes) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        if self._pieces:
            self._flush()
        self._send(data)
        self.message_event.set()
        if not self.gone:
            if not self.keep_alive:
                self.transport.close()
            self.on_response()


class Connection(HttpToolsProtocol):
    """One connection.

    hot: the routes that take the short way; None: there are none.
    serving: the cycle that runs on it, if it is one of theirs.
    """

    hot: ClassVar[HotRoutes | None] = None
    client_timeout_s: ClassVar[float] = 60.0
    _default: ClassVar[tuple[object, bytes]] = (None, b"")

    serving: HotCycle | None = None
    _pending: HotCycle | None = None
    _in_head = True
    _head_bytes = 0
    _late_s: float | None = None
    _when_late: Callable[[], None]
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its first request has to come."""
        super().connection_made(transport)
        self._expect_within(self.client_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_writing_timer()
        super().connection_lost(exc)
        if self.serving is not None:
            self.serving.leave()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; of headers only so many."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._close_with(b"431 Request Header Fields Too Large")
        if self._pending is not None:  # its body is still coming
            self._start_pending()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._in_head, self._head_bytes = True, 0
        self._expect_within(self.client_timeout_s, self._head_is_late)

    def on_headers_complete(self) -> None:
        """The headers are there; the body follows."""
        self._in_head = False
        # The application answers 408 for a body that does not come; if it has not, the connection is dropped.
        self._expect_within(2 * self.client_timeout_s, self.transport.abort)
        path = self.url.partition(b"?")[0].decode("latin-1")
        surface = self.hot.surface(unquote(path) if "%" in path else path) if self.hot is not None else None
        if self.hot is None or surface is None or self.parser.get_method() != b"POST" or self.parser.should_upgrade():
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.headers.extend(headers)
            self.url, self.expect_100_continue = url, expects
            super().on_headers_complete()
        else:
            self._take(self.hot, surface, path)

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        self._late_s = None
        super().on_message_complete()
        if self._pending is not None:
            self._start_pending()

    def on_response_complete(self) -> None:
        """An answer has gone out: the next request may begin, or the connection waits for one. As uvicorn does it, but
        for the timer.
        """
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._late_s is None:
            self._expect_within(self.timeout_keep_alive, self.transport.close)

    def pause_writing(self) -> None:
        """The client takes nothing for now."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.client_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It takes its answer again."""
        self._stop_writing_timer()
        super().resume_writing()

    def default_lines(self) -> bytes:
        """The headers that every answer has, the date among them; uvicorn makes the list anew every second."""
        made_of, lines = Connection._default
        headers = self.server_state.default_headers
        if made_of is not headers:
            lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
            Connection._default = headers, lines
        return lines

    def _take(self, hot: HotRoutes, surface: Surface, path: str) -> None:
        """Begin a cycle of our own, now or behind the one that runs."""
        cycle = HotCycle(
            scope={},  # type: ignore[typeddict-item]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0",
            on_response=self.on_response_complete,
        )
        cycle.hot, cycle.connection, cycle._pieces = hot, self, []
        cycle.surface, cycle.path, cycle.raw_headers = surface, path, self.headers
        before, self.cycle = self.cycle, cycle
        if before is None or before.response_complete:
            self._pending = cycle
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_pending(self) -> None:
        assert self._pending is not None
        cycle, self._pending = self._pending, None
        self._start_asgi_task(cycle, self.app)

    def _head_is_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_within(self.client_timeout_s, self._head_is_late)  # the answer before comes first
        elif self._head_bytes:
            self._close_with(b"408 Request Timeout")
        else:
            self.transport.close()

    def _close_with(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()

    def _expect_within(self, timeout_s: float, when_late: Callable[[], None]) -> None:
        """One timer serves all waiting: set when it is needed sooner; it looks again when it was set too early."""
        self._late_s, self._when_late = self.loop.time() + timeout_s, when_late
        if self._timer is None:
            self._timer = self.loop.call_at(self._late_s, self._look)
        elif self._timer.when() > self._late_s:
            self._timer.cancel()
            self._timer = self.loop.call_at(self._late_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._late_s is None or self.transport.is_closing():
            return
        if self.loop.time() < self._late_s:
            self._timer = self.loop.call_at(self._late_s, self._look)
        else:
            self._late_s = None
            self._when_late()

    def _stop_writing_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None


def connections(hot: HotRoutes | None, client_timeout_s: float) -> type[Connection]:
    """The protocol of a server with these routes and this patience, as uvicorn wants it: a class."""
    return type("Connection", (Connection,), {"hot": hot, "client_timeout_s": client_timeout_s})
