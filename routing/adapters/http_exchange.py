"""One HTTP/1.1 connection and the exchange that runs on it.

What an answer may look like is decided here and by llhttp in its strict mode. An answer whose end could be read in two
ways is refused, because what follows it on the connection could be taken for the answer to another call. A connection
is given back only after an answer that ended exactly where its bytes did.
"""

import asyncio
import ssl
from typing import Protocol, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from core.turn import turn_of
from routing.adapters.http_events import EventSource
from routing.adapters.http_inflate import Inflater
from routing.adapters.http_tls import keep_session
from routing.adapters.http_types import (
    MAX_ANSWER_BYTES,
    MAX_EVENT_BYTES,
    MAX_HEAD_BYTES,
    MAX_REFUSAL_BYTES,
    Headers,
    HttpRequest,
    Reply,
    broken,
)
from routing.errors import FailureKind, UpstreamError

_REFUSAL_S = 5.0
_DRAIN_S = 1.0
_MAX_INTERIM = 8
#: A body up to here goes out in one piece with its head; a larger one is not copied.
_JOINED_BYTES = 64 * 1024
#: Event loops count in milliseconds.
_TICK_S = 0.001
_NEVER_S = float("inf")


class Pool(Protocol):
    """Who a connection belongs to. name: of the endpoint."""

    name: str

    def release(self, connection: "Connection") -> None:
        """The exchange has ended and another may begin."""
        ...

    def lost(self, connection: "Connection") -> None:
        """It can't be used any more. Called once."""
        ...

    def drains(self, connection: "Connection") -> None:
        """It may soon be released."""
        ...

    def gone(self, connection: "Connection") -> None:
        """Its socket is closed. Called once, last."""
        ...


class Connection(asyncio.Protocol):
    """A connection with at most one exchange at a time.

    closed: it can't be used any more. draining: only the end of an answer is waited for.
    idle_since_s: for the pool, by the loop's clock.
    """

    _transport: asyncio.Transport

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self.draining = False
        self.idle_since_s = 0.0
        self._pool = pool
        self._loop = loop
        self._turn = turn_of(loop)
        self._parser = HttpResponseParser(self)
        self._tls: ssl.SSLObject | None = None
        self._session_kept = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = 0.0
        self._deadline_s = _NEVER_S
        self._waiter: asyncio.Future[Reply | EventSource] | None = None
        self._unsent = False  # the request goes out at the end of this turn of the loop
        self._prepare(None)

    def _prepare(self, request: HttpRequest | None) -> None:
        """Forget the last answer."""
        self._request = request
        self._source: EventSource | None = None
        self._inflater: Inflater | None = None
        self._headers: dict[bytes, bytes] = {}
        self._status = 0  # of the final answer, once its headers are complete
        self._complete = False
        self._keep = False
        self._until_eof = False
        self._interim = 0
        self._head_bytes = 0
        self._idling_bytes = 0  # since headers or a body last got on
        self._last_piece = b""  # as it came
        self._pieces: list[bytes] = []
        self._body_bytes = 0
        self._limit = MAX_ANSWER_BYTES

    # What the pool does.

    def begin(self, request: HttpRequest, *, streaming: bool) -> "asyncio.Future[Reply | EventSource]":
        """Send a request. The future gives a stream only for a 2xx."""
        self._prepare(request)
        self._streaming = streaming
        self._waiter = waiter = self._loop.create_future()
        self.watch(request.deadline_s)
        self._unsent = True
        self._turn.at_end(self._send)
        return waiter

    def _send(self) -> None:
        """Write the request; from here on it counts as sent."""
        request = self._request
        if not self._unsent or request is None:  # given up meanwhile
            return
        self._unsent = False
        content = request.content
        if len(content) <= _JOINED_BYTES:
            self._transport.write(b"%bContent-Length: %d\r\n\r\n%b" % (request.head, len(content), content))
        else:
            self._transport.write(b"%bContent-Length: %d\r\n\r\n" % (request.head, len(content)))
            self._transport.write(content)

    def leave(self, waiter: "asyncio.Future[Reply | EventSource]") -> None:
        """Nobody waits for this exchange any more: drop the connection, unless it serves another by now."""
        if waiter is self._waiter:
            self.abort()

    def usable(self) -> bool:
        """Whether an exchange can begin."""
        return not self.closed and not self._transport.is_closing()

    def abort(self) -> None:
        """Drop the connection at once, without TLS's goodbye, so that the provider stops generating."""
        if self.closed:
            return
        self._close()
        self._transport.abort()

    def fail(self, error: UpstreamError) -> None:
        """End the exchange and the connection. A refusal counts by its status, also when its body breaks off."""
        waiter, source = self._waiter, self._source
        self.abort()
        if source is not None:
            source.fail(error)
        elif waiter is not None and not waiter.done():
            if self._status >= 300:
                waiter.set_result(self._reply())
            else:
                waiter.set_exception(error)

    # What a stream does.

    def watch(self, deadline_s: float) -> None:
        """The exchange fails if it still waits then. A timer is set only if none rings before, so hardly ever."""
        self._deadline_s = deadline_s
        if self._alarm is not None:
            if self._alarm_s <= deadline_s:
                return
            self._alarm.cancel()
        self._alarm_s = deadline_s
        self._alarm = self._loop.call_at(deadline_s, self._ring)

    def unwatch(self) -> None:
        """Nothing is waited for."""
        self._deadline_s = _NEVER_S

    def pause(self) -> None:
        """Read no more from the socket."""
        self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if not self.closed:
            self._transport.resume_reading()

    def drain(self) -> None:
        """Only the end of the body is wanted, and only if it comes soon; then the connection can be used again."""
        self.draining = True
        self._pool.drains(self)
        self.watch(self._loop.time() + _DRAIN_S)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called once, after TLS's handshake."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self._tls = transport.get_extra_info("ssl_object")

    def data_received(self, data: bytes) -> None:
        """A piece of an answer; on an idle connection nobody asked for it, nor before the request has gone out."""
        if self._waiter is None or self._unsent:
            self.fail(self._broke_off("unasked"))
            return
        self._idling_bytes += len(data)
        surplus = False
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self._complete:
                self._refuse(error)
                return
            surplus = True
        if self._complete:
            self._end(keep=self._keep and not surplus and self._ends_with_its_body(data))
        elif self._idling_bytes > MAX_HEAD_BYTES:
            self.fail(broken(f"the answer's headers are larger than {MAX_HEAD_BYTES} bytes"))

    def eof_received(self) -> None:
        """The server closes: an answer without a length ends here, any other breaks off."""
        if self._waiter is not None and self._status and self._until_eof and self._ended_on_purpose():
            self._end(keep=False)
        elif self._waiter is not None:
            self.fail(self._broke_off("closed"))
        else:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by whomever."""
        if not self.closed:
            error = self._broke_off("closed" if exc is None else type(exc).__name__)
            self._close()
            self.fail(error)
        self._pool.gone(self)
        self._waiter = self._source = None
        self._forget()

    def _ring(self) -> None:
        self._alarm = None
        if self._deadline_s == _NEVER_S:
            return
        if self._loop.time() < self._deadline_s - _TICK_S:
            self.watch(self._deadline_s)
        else:
            self.fail(UpstreamError(FailureKind.TIMEOUT, f"the endpoint {self._pool.name} did not answer in time"))

    # What the parser calls. An UpstreamError raised here reaches `data_received` as the context of the parser's own.

    def on_message_begin(self) -> None:
        """The first byte of an answer, also of an interim one."""
        if self._complete:
            raise broken("there is more than one answer")
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, of which nothing is used."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise broken(f"the answer's headers are larger than {MAX_HEAD_BYTES} bytes")
        if not self._status:
            name = name.lower()
            headers = self._headers
            headers[name] = headers[name] + b", " + value if name in headers else value

    def on_headers_complete(self) -> None:
        """Decide how the body is read."""
        parser, headers = self._parser, self._headers
        status = parser.get_status_code()
        self._idling_bytes = 0
        if status < 200:
            self._interim += 1
            if status < 100 or status == 101 or self._interim > _MAX_INTERIM:
                raise broken(f"an answer with status {status} was not asked for")
            return
        version, coding = parser.get_http_version(), headers.get(b"transfer-encoding")
        if version != "1.1" and (version != "1.0" or coding is not None):
            raise broken(f"the answer is of a version of HTTP that was not asked for ({version})")
        if coding is not None and coding.lower() != b"chunked":
            raise broken("the answer has a transfer encoding that was not asked for")
        self._until_eof = coding is None and b"content-length" not in headers and status not in (204, 304)
        self._keep = not self._until_eof and parser.should_keep_alive()
        self._status = status
        encoding = headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() not in (b"identity", b""):
            self._inflater = Inflater(encoding.lower())
        self._after_headers(status)

    def on_body(self, piece: bytes) -> None:
        """Some of the body."""
        self._idling_bytes = 0
        self._last_piece = piece
        if self._inflater is not None:
            piece = self._inflate(self._inflater, piece)
        if self._source is not None:
            self._source.feed(piece)
            return
        self._pieces.append(piece)
        self._body_bytes += len(piece)
        if self._body_bytes > self._limit:
            raise broken(f"the answer is larger than {self._limit} bytes")

    def on_message_complete(self) -> None:
        """The end of an answer; the caller hears of it once it is known whether more follows."""
        self._complete = self._status != 0

    def _after_headers(self, status: int) -> None:
        request, waiter = self._request, self._waiter
        assert request is not None and waiter is not None
        if status >= 300:
            self._limit = MAX_REFUSAL_BYTES
            self.watch(self._loop.time() + _REFUSAL_S)
        elif self._streaming:
            self.unwatch()
            self._source = EventSource(self, self._loop, Headers(self._headers), request)
            if not waiter.done():
                waiter.set_result(self._source)

    def _inflate(self, inflater: Inflater, piece: bytes) -> bytes:
        limit = self._limit - self._body_bytes if self._source is None else MAX_EVENT_BYTES
        inflated = inflater.feed(piece, limit)
        if inflated is None:
            raise broken(f"the answer is larger than {self._limit} bytes")
        return inflated

    def _refuse(self, error: Exception) -> None:
        """The answer is none that may be read on; either we said why, or the parser."""
        why = error.__context__
        if not isinstance(why, UpstreamError):
            why = broken(f"the answer of the endpoint {self._pool.name} is not HTTP as it should be ({error})")
            why.__cause__ = error
        self.fail(why)

    def _ends_with_its_body(self, data: bytes) -> bool:
        """Whether nothing follows. The parser passes over line breaks between answers without a word."""
        if self._last_piece and b"content-length" in self._headers:
            return data.endswith(self._last_piece)
        return not data.endswith(b"\r\n\r\n\r\n")

    def _ended_on_purpose(self) -> bool:
        """False if TLS was cut off without its goodbye, which anybody on the way can do."""
        if self._tls is None:
            return True
        try:
            return self._tls.read(1) == b""
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLError:
            return False

    def _broke_off(self, what: str) -> UpstreamError:
        if self._unsent:
            return UpstreamError(FailureKind.NOT_SENT, f"no connection to the endpoint {self._pool.name} ({what})")
        return broken(f"the answer of the endpoint {self._pool.name} broke off ({what})")

    def _reply(self) -> Reply:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        return Reply(self._status, Headers(self._headers), body[: self._limit])

    def _end(self, *, keep: bool) -> None:
        """The answer is complete: first the connection, then whoever waits."""
        waiter, source = self._waiter, self._source
        self._waiter = self._source = None
        self._deadline_s = _NEVER_S
        if self._tls is not None and not self._session_kept:
            self._session_kept = True
            keep_session(self._tls)
        # An answer that came before all of the request was out leaves a server that may not read the rest.
        if keep and self._transport.get_write_buffer_size() == 0:
            self._pool.release(self)
        else:
            self.abort()
        if source is not None:
            source.end()
        elif waiter is not None and not waiter.done():
            if self._inflater is not None and not self._inflater.ended:
                waiter.set_exception(broken("the answer's compressed body is cut off"))
            else:
                waiter.set_result(self._reply())
        self._forget()

    def _forget(self) -> None:
        """Let go of what may be large: an idle connection has no use for it."""
        self._request = None
        self._pieces = []
        self._last_piece = b""

    def _close(self) -> None:
        self.closed = True
        self._unsent = False
        self._deadline_s = _NEVER_S
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._pool.lost(self)
