"""One request on a hot route and its answer: a `gateway.http.Exchange`, and what uvicorn knows as a cycle."""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from gateway.heads import RequestHead
from gateway.http import Message

if TYPE_CHECKING:
    from gateway.connection import Connection

log = logging.getLogger("spendgate.gateway")

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HotCycle:
    """A request that goes from the parser to `HotRoutes.serve` and its answer from there to the socket.

    uvicorn's protocol looks at `body`, `more_body`, `keep_alive`, `disconnected`, `response_complete` and
    `message_event`, which it sets when something has come: the cycle is its own event.

    waits_for_100: the client sends its body once it is told to.
    """

    __slots__ = (
        "_connection", "_news", "_out", "_pieces", "_started", "body", "disconnected", "gone", "head", "keep_alive",
        "more_body", "on_leave", "response_complete", "task", "waits_for_100",
    )  # fmt: skip

    def __init__(self, connection: "Connection", head: RequestHead, body: bytes | None, keep_alive: bool) -> None:
        """body: as a whole; None: it is still coming."""
        self.head = head
        self.body: bytes | bytearray = bytearray() if body is None else body
        self.more_body = body is None
        self.keep_alive = keep_alive
        self.disconnected = False
        self.response_complete = False
        self.waits_for_100 = False
        self.gone = False
        self.on_leave: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._news: asyncio.Future[None] | None = None
        self._out: list[bytes] = []  # what goes out at the end of this turn, and pieces that are not framed yet
        self._pieces: list[bytes] = []
        self._started = False

    @property
    def message_event(self) -> "HotCycle":
        """What uvicorn sets."""
        return self

    def set(self) -> None:
        """More of the body has come, or the client has gone."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    async def run(self) -> None:
        """Serve it; the connection makes a task of this."""
        connection = self._connection
        connection.serving = self
        connection.turn.crowd += 1
        try:
            assert connection.hot is not None
            await connection.hot.serve(self)
        except asyncio.CancelledError:
            connection.transport.close()
            raise
        except BaseException:
            log.exception("a call ended with an error that is not the client's")
            if self._started:
                connection.transport.close()
            else:
                self.answer(500, "", b"", close=True)
        finally:
            connection.turn.crowd -= 1
            connection.tasks.discard(self.task)

    def leave(self) -> None:
        """The client has gone away."""
        self.gone = True
        if self.on_leave is not None and not self.response_complete:
            self.on_leave()

    def whole_body(self) -> bytes | None:
        """The body, if it has come to its end already; it is given out once."""
        if self.more_body:
            return None
        body, self.body = bytes(self.body), b""  # an idle connection keeps its last cycle, but not this
        return body

    async def receive(self) -> Message:
        """What comes next of the body, as an ASGI message."""
        connection = self._connection
        if self.waits_for_100 and not self.disconnected:
            self.waits_for_100 = False
            connection.transport.write(_CONTINUE)
        if not self.disconnected and not self.response_complete:
            connection.flow.resume_reading()
            while not self.body and self.more_body and not self.disconnected:
                self._news = connection.loop.create_future()
                await self._news
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = bytes(self.body), bytearray()
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    def answer(self, status: int, lines: str, body: bytes, *, close: bool = False) -> None:
        """A whole answer."""
        if close:
            self.keep_alive = False
        head = self._head(status, lines)
        self._put_last(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body))

    def begin(self, status: int, lines: str) -> None:
        """The head of an answer in pieces."""
        self._put(self._head(status, lines) + b"transfer-encoding: chunked\r\n\r\n")

    def write(self, data: bytes) -> None:
        """A piece of it; what comes in one turn of the loop goes out as one."""
        self._pieces.append(data)
        if len(self._pieces) == 1 and not self._out:
            self._connection.turn.at_end(self._flush)

    @property
    def full(self) -> bool:
        """The client has to take some of what was written before it is sent more."""
        return self._connection.flow.write_paused and not self.gone

    async def drained(self) -> None:
        """Return once it has."""
        if self.full:
            await self._connection.flow.drain()

    def end(self, data: bytes) -> None:
        """The last piece."""
        self._put_last(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

    def _head(self, status: int, lines: str) -> bytes:
        """What is not Latin-1 is replaced, so that no name can break an answer."""
        first: bytes = STATUS_LINE[status]
        close = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%b%b" % (first, self._connection.default_lines(), close, lines.encode("latin-1", "replace"))

    def _put(self, data: bytes) -> None:
        self._started = True
        put_off = bool(self._pieces or self._out)
        if self._pieces:
            self._frame()
        self._out.append(data)
        if not put_off:
            self._connection.turn.at_end(self._flush)

    def _frame(self) -> None:
        data, self._pieces = b"".join(self._pieces), []
        self._out.append(b"%x\r\n%b\r\n" % (len(data), data))

    def _flush(self) -> None:
        if self._pieces:
            self._frame()
        out, self._out = self._out, []
        transport = self._connection.transport
        if out and not self.gone and not transport.is_closing():
            transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _put_last(self, data: bytes) -> None:
        if self.response_complete:
            return
        self.response_complete = True
        self._put(data)
        self.set()
        if not self.gone:
            if not self.keep_alive:
                self._flush()
                self._connection.transport.close()
            self._connection.on_response_complete()
