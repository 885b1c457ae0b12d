"""A client's connection: HTTP/1.1 as uvicorn speaks it, bounded in time and memory, with a short way for hot routes.

A request on a hot route goes from the parser to `HotRoutes.serve` and its answer from there to the socket, without the
messages of ASGI between them; every other request takes uvicorn's own way to the application. Both are `cycles` to
uvicorn, which keeps their order on a connection, and drains them. A head that comes again is not parsed again
(`gateway.heads`).

uvicorn waits for ever for the end of a request's headers, keeps headers of any size, and waits for ever for a client
that takes nothing of its answer. Here a client has `client_timeout_s` for the headers, as much again for the body, and
as much for each piece of an answer that it lets wait. After that its connection is closed, which ends its call as any
client's leaving does.
"""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar
from urllib.parse import unquote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from core.turn import Turn, turn_of
from gateway.cycle import HotCycle
from gateway.heads import KnownHead, RequestHead, known_head
from gateway.hot import HotRoutes
from gateway.surfaces import Surface

MAX_HEAD_BYTES = 64 * 1024


class Connection(HttpToolsProtocol):
    """One connection.

    hot: the routes that take the short way; None: there are none.
    serving: the cycle that runs on it, if it is one of theirs.
    turn: at whose end answers of theirs go out.
    """

    hot: ClassVar[HotRoutes | None] = None
    client_timeout_s: ClassVar[float] = 60.0
    _default: ClassVar[tuple[object, bytes]] = (None, b"")

    serving: HotCycle | None = None
    turn: Turn
    _pending: HotCycle | None = None
    _known: KnownHead | None = None
    _between = True  # no byte of a request has come since the last one's end
    _in_head = True
    _head_bytes = 0
    _late_s: float | None = None
    _when_late: Callable[[], None]
    _timer: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its first request has to come."""
        super().connection_made(transport)
        self.turn = turn_of(self.loop)
        self._expect_within(self.client_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
        self._stop_writing_timer()
        super().connection_lost(exc)
        if self.serving is not None:
            self.serving.leave()
        self.cycle = self.serving = self._known = None  # type: ignore[assignment] # as uvicorn begins

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; of headers only so many."""
        begins = self._between and (self.cycle is None or self.cycle.response_complete)
        if begins and self._known is not None:
            body = self._known.body(data)
            if body is not None:
                self._late_s = None
                cycle = HotCycle(self, self._known.head, body, keep_alive=True)
                self.cycle = cycle  # type: ignore[assignment] # it has all that uvicorn looks at
                self._start(cycle)
                return
        self.turn.end()  # uvicorn may write to the client in here: the answer before goes out first
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._close_with(b"431 Request Header Fields Too Large")
        pending, self._pending = self._pending, None
        if pending is not None:
            if begins and self._between and pending.keep_alive and not pending.waits_for_100:
                self._known = known_head(data, pending.head)
            self._start(pending)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._between = False
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
        self._between, self._late_s = True, None
        super().on_message_complete()

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

    def shutdown(self) -> None:
        """The server stops: an answer that was given goes out before the connection is closed."""
        self.turn.end()
        super().shutdown()

    def default_lines(self) -> bytes:
        """The headers that every answer has, the date among them; uvicorn makes the list anew every second."""
        made_of, lines = Connection._default
        headers = self.server_state.default_headers
        if made_of is not headers:
            lines = b"".join([b"%b: %b\r\n" % pair for pair in headers])
            Connection._default = headers, lines
        return lines

    def handle_websocket_upgrade(self) -> None:
        """The connection is another protocol's from now on."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().handle_websocket_upgrade()

    def _take(self, hot: HotRoutes, surface: Surface, path: str) -> None:
        """Begin a cycle of our own, now or behind the one that runs."""
        keep_alive = self.parser.should_keep_alive() and self.parser.get_http_version() != "1.0"
        cycle = HotCycle(self, RequestHead(surface, path, self.headers), None, keep_alive)
        cycle.waits_for_100 = self.expect_100_continue
        before, self.cycle = self.cycle, cycle  # type: ignore[assignment] # as above
        if before is None or before.response_complete:
            self._pending = cycle
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Uvicorn's way to start a cycle, which is one of ours where one of ours has waited behind another."""
        if isinstance(cycle, HotCycle):
            self._start(cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def _start(self, cycle: HotCycle) -> None:
        cycle.task = task = self.loop.create_task(cycle.run())
        self.tasks.add(task)  # until it ends: uvicorn waits for them before it stops

    def _head_is_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_within(self.client_timeout_s, self._head_is_late)  # the answer before comes first
        elif self._head_bytes:
            self._close_with(b"408 Request Timeout")
        else:
            self.transport.close()

    def _close_with(self, status: bytes) -> None:
        self.turn.end()
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
