"""HTTP connections with slow clients, bounded in time and memory.

uvicorn waits for ever for the end of a request's headers, keeps headers of any size, and waits for ever for a client
that takes nothing of its answer. Here a client has `client_timeout_s` for the headers, as much again for the body, and
as much for each piece of an answer that it lets wait. After that its connection is closed, which ends its call as any
client's leaving does.
"""

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024


class BoundedHttp(HttpToolsProtocol):
    """One connection."""

    client_timeout_s = 60.0
    _in_head = True
    _head_bytes = 0
    _reading: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; its first request has to come."""
        super().connection_made(transport)
        self._read_within(self.client_timeout_s, self._head_is_late)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_reading_timer()
        self._stop_writing_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request; of headers only so many."""
        self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._close_with(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0
        self._read_within(self.client_timeout_s, self._head_is_late)

    def on_headers_complete(self) -> None:
        """The headers are there; the body follows."""
        self._in_head = False
        # The application answers 408 for a body that does not come; if it has not, the connection is dropped.
        self._read_within(2 * self.client_timeout_s, self.transport.abort)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there as a whole."""
        self._stop_reading_timer()
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client takes nothing for now."""
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.client_timeout_s, self.transport.abort)

    def resume_writing(self) -> None:
        """It takes its answer again."""
        self._stop_writing_timer()
        super().resume_writing()

    def _head_is_late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._read_within(self.client_timeout_s, self._head_is_late)  # the answer before comes first
        elif self._head_bytes:
            self._close_with(b"408 Request Timeout")
        else:
            self.transport.close()

    def _close_with(self, status: bytes) -> None:
        self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()

    def _read_within(self, timeout_s: float, late: Callable[[], None]) -> None:
        self._stop_reading_timer()
        self._reading = self.loop.call_later(timeout_s, late)

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _stop_writing_timer(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None


def bounded_http(client_timeout_s: float) -> type[BoundedHttp]:
    """The protocol with this patience, as uvicorn wants it: a class."""
    return type("BoundedHttp", (BoundedHttp,), {"client_timeout_s": client_timeout_s})
