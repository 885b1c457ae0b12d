"""The body of an answer as server-sent events, poured from the connection into whoever takes them.

Nobody runs in between: what the connection receives goes to the taker in the same turn of the loop, and no task wakes
for it. A taker that is slower than the server stops the server: nothing more is read until it can take more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from routing.adapters.http_types import MAX_EVENT_BYTES, HttpRequest, broken
from routing.adapters.sse import DONE, EventDecoder, EventTooLarge
from routing.errors import UpstreamError

#: Takes payloads that came together; whether it can take more at once.
Take = Callable[[list[bytes]], bool]
#: Returns once it can.
Drained = Callable[[], Awaitable[object]]
#: What comes before it is taken is kept; beyond so much the socket is left alone.
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
        self._ready: list[bytes] = []  # not taken yet
        self._ready_bytes = 0
        self._paused = False
        self._take: Take | None = None  # while everything is taken as it comes
        self._news: asyncio.Future[None] | None = None
        self._failure: BaseException | None = None
        self._finished = False
        self._closed = False

    async def pour(self, take: Take, drained: Drained) -> None:
        """Give the payloads of the events to `take` as they come, until the body ends or `finish` is called.

        What `take` raises ends the stream, and is raised here.

        Raises:
            UpstreamError: TIMEOUT or BROKEN.
        """
        try:
            while True:
                while self._ready and not self._hand_over(take):
                    await drained()
                if self._wire is None or self._closed or self._failure is not None:
                    break
                self._resume(self._wire)
                if not await self._wait(self._wire, take):
                    await drained()
        except asyncio.CancelledError:
            self.close()
            raise
        if self._finished:
            return
        if self._failure is not None:
            raise self._failure
        if self._decoder.finish() == DONE:  # some servers leave out the blank line after the end mark
            take([DONE])

    def finish(self) -> None:
        """The stream has said its end mark: keep the connection for the next call, if the body ends now."""
        if not self._closed:
            self._closed = self._finished = True
            if self._wire is not None:
                self._resume(self._wire)
                self._wire.drain()
            self._wake()

    def close(self) -> None:
        """Drop the connection at once, unless the body has ended."""
        if not self._closed:
            self._closed = True
            self._ready = []
            self._failure = self._failure or broken("the stream was closed")
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
        if not payloads:
            return
        if self._take is not None and self._wire is not None:
            self._pass_on(self._take, self._wire, payloads)
            return
        self._ready += payloads
        self._ready_bytes += len(piece)
        if self._ready_bytes > MAX_UNREAD_BYTES and self._wire is not None:
            self._pause(self._wire)

    def end(self) -> None:
        """The body has ended as it should. The connection serves another call now, also if something still waits."""
        if self._wire is not None:
            self._resume(self._wire)
        self._wire = None
        self._wake()

    def fail(self, error: UpstreamError) -> None:
        """The body will not be complete. What came before is given out first."""
        self._wire = None
        self._failure = self._failure or error
        self._wake()

    def _hand_over(self, take: Take) -> bool:
        """Give out what was kept; whether more can be taken."""
        payloads, self._ready, self._ready_bytes = self._ready, [], 0
        try:
            return take(payloads)
        except BaseException:
            self.close()
            raise

    async def _wait(self, wire: Wire, take: Take) -> bool:
        """Pass on what comes, until there is something else to do; whether more can be taken."""
        wire.watch(self._first_deadline_s or self._loop.time() + self._timeout_s)
        self._first_deadline_s = None
        self._take, self._news = take, self._loop.create_future()
        try:
            await self._news
            return self._take is not None
        finally:
            self._take = self._news = None
            if self._wire is not None and not self._closed:
                wire.unwatch()

    def _pass_on(self, take: Take, wire: Wire, payloads: list[bytes]) -> None:
        """Called by the connection: errors are for whoever pours."""
        try:
            more = take(payloads)
        except BaseException as error:
            self._failure = error
            self.close()
            return
        if self._closed:
            return
        if more:
            wire.watch(self._loop.time() + self._timeout_s)
        else:
            self._take = None
            self._pause(wire)
            self._wake()

    def _pause(self, wire: Wire) -> None:
        if not self._paused:
            self._paused = True
            wire.pause()

    def _resume(self, wire: Wire) -> None:
        if self._paused:
            self._paused = False
            wire.resume()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
