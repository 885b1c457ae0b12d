"""Streams of providers as tests like to read them: one batch, or one payload, at a time."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Protocol


class Poured(Protocol):
    """What `routing.upstream.UpstreamStream` and `routing.adapters.http.EventSource` have in common."""

    def pour(
        self, take: Callable[[list[bytes]], bool], drained: Callable[[], Awaitable[object]]
    ) -> Coroutine[Any, Any, None]:
        """See there."""
        ...


class Pulled:
    """A stream that goes on only when the next batch is asked for."""

    def __init__(self, stream: Poured) -> None:
        self._stream = stream
        self._batches: deque[list[bytes]] = deque()
        self._wanted, self._came = asyncio.Event(), asyncio.Event()
        self._pouring: asyncio.Task[None] | None = None

    async def next(self) -> list[bytes] | None:
        """What came together; None: the stream has ended.

        Raises:
            UpstreamError: as the stream does.
        """
        self._wanted.set()
        if self._pouring is None:
            self._pouring = asyncio.create_task(self._stream.pour(self._take, self._drained))
            self._pouring.add_done_callback(lambda _: self._came.set())
        while not self._batches and not self._pouring.done():
            self._came.clear()
            await self._came.wait()
        if self._batches:
            return self._batches.popleft()
        await self._pouring
        return None

    async def close(self) -> None:
        """Read no more."""
        if self._pouring is not None:
            self._pouring.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._pouring

    def _take(self, payloads: list[bytes]) -> bool:
        self._batches.append(payloads)
        self._wanted.clear()
        self._came.set()
        return False

    async def _drained(self) -> None:
        await self._wanted.wait()


async def payloads_of(stream: Poured) -> AsyncIterator[bytes]:
    """Its payloads, one at a time."""
    pulled = Pulled(stream)
    try:
        while (batch := await pulled.next()) is not None:
            for payload in batch:
                yield payload
    finally:
        await pulled.close()


async def never() -> None:
    """What waits for a taker that can always take."""
    raise AssertionError("whatever comes can be taken")


async def first_of(stream: Poured) -> list[bytes]:
    """What comes first; from then on nothing is read."""
    got: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    def take(payloads: list[bytes]) -> bool:
        if not got.done():
            got.set_result(payloads)
        return False

    reading = asyncio.create_task(stream.pour(take, asyncio.Event().wait))
    reading.add_done_callback(lambda task: task.cancelled() or task.exception())
    return await got


async def count_of(stream: Poured) -> int:
    """How many payloads come."""
    count = 0

    def take(payloads: list[bytes]) -> bool:
        nonlocal count
        count += len(payloads)
        return True

    await stream.pour(take, never)
    return count
