"""The body of an answer as server-sent events, handed from the connection to whoever reads them.

Nobody runs in between: the connection feeds what it receives, the reader takes all that is there. A reader that is
slower than the server stops the server: beyond a little that is unread, nothing more is taken from the socket.
"""

import asyncio
from collections.abc import Mapping
from typing import Protocol

from routing.adapters.http_types import MAX_EVENT_BYTES, HttpRequest, broken
from routing.adapters.sse import DONE, EventDecoder, EventTooLarge
from routing.errors import UpstreamError

#: Beyond so much that is unread the socket is left alone.
MAX_UNREAD_BYTES = 256 * 1024


class Wire(Protocol):
    """The connection below a stream."""

    def watch(self, deadline_s: float) -> None:
        """Fail the stream with TIMEOUT then."""
        ...

    def unwatch(self) -> None:
        """There is no deadline."""
        ...

    def pause(self) -> None:
        """Read no more from the socket."""
        ...

    def resume(self) -> None:
        """Read on."""
        ...

    def drain(self) -> None:
        """Only the end of the body is wanted."""
        ...

    def abort(self) -> None:
        """Drop the connection at once."""
        ...


class EventSource:
    """The body of a 2xx as server-sent events. Its first byte has not been read yet."""

    def __init__(
        self, wire: Wire, loop: asyncio.AbstractEventLoop, headers: Mapping[str, str], request: HttpRequest
    ) -> None:
        self.headers = headers
        self._wire: Wire | None = wire  # until the body has ended
        self._loop = loop
        self._timeout_s = request.timeout_s
        self._first_deadline_s: float | None = request.deadline_s
        self._decoder = EventDecoder(MAX_EVENT_BYTES)
        self._ready: list[bytes] = []
        self._unread_bytes = 0
        self._paused = False
        self._reader: asyncio.Future[None] | None = None
        self._failure: UpstreamError | None = None
        self._closed = False

    async def next_payloads(self) -> list[bytes] | None:
        """The payloads of the next events, as soon as there is one; None at the end of the body.

        Raises:
            UpstreamError: TIMEOUT or BROKEN.
        """
        if not self._ready and self._wire is not None and not self._closed:
            await self._wait(self._wire)
        self._first_deadline_s = None
        if self._closed:
            raise broken("the stream was closed")
        if self._ready:
            payloads, self._ready = self._ready, []
            self._unread_bytes = 0
            if self._paused and self._wire is not None:
                self._paused = False
                self._wire.resume()
            return payloads
        if self._failure is not None:
            raise self._failure
        # Some servers leave out the blank line after the end mark.
        return [DONE] if self._decoder.finish() == DONE else None

    async def _wait(self, wire: Wire) -> None:
        """Until there is something to tell."""
        wire.watch(self._first_deadline_s or self._loop.time() + self._timeout_s)
        self._reader = self._loop.create_future()
        try:
            await self._reader
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._reader = None
        if self._wire is not None:
            wire.unwatch()

    def finish(self) -> None:
        """The stream has said its end mark: keep the connection for the next call, if the body ends now."""
        if not self._closed:
            self._closed = True
            if self._wire is not None:
                if self._paused:
                    self._wire.resume()
                self._wire.drain()

    def close(self) -> None:
        """Drop the connection at once, unless the body has ended."""
        if not self._closed:
            self._closed = True
            self._ready = []
            if self._wire is not None:
                self._wire.abort()
                self._wire = None
            self._wake()

    def feed(self, piece: bytes) -> None:
        """Some of the body has come.

        Raises:
            UpstreamError: BROKEN, an event is too large, or something follows the end mark.
        """
        if self._closed:
            raise broken("the stream goes on after its end")
        try:
            payloads = self._decoder.feed(piece)
        except EventTooLarge:
            raise broken(f"an event of the stream is larger than {MAX_EVENT_BYTES} bytes") from None
        self._unread_bytes += len(piece)
        if payloads:
            if self._ready:
                self._ready += payloads
            else:
                self._ready = payloads
            self._wake()
            if self._unread_bytes > MAX_UNREAD_BYTES and not self._paused and self._wire is not None:
                self._paused = True
                self._wire.pause()

    def end(self) -> None:
        """The body has ended as it should."""
        self._wire = None
        self._wake()

    def fail(self, error: UpstreamError) -> None:
        """The body will not be complete. What came before is given out first."""
        self._wire = None
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)
