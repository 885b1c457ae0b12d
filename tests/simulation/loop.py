"""An event loop without a world: time moves only when nobody has anything left to do, and a process can die at any
await. What runs belongs to the owner in its context; of a dead owner nothing runs on, not even a `finally`.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

OWNER: contextvars.ContextVar["Owner | None"] = contextvars.ContextVar("owner", default=None)


class Owner:
    """A process. fuse: how many steps it has left to live; None: it is not about to die."""

    def __init__(self) -> None:
        self.dead = False
        self.fuse: int | None = None

    def die(self) -> None:
        """As by kill -9."""
        self.dead = True


class Handle:
    """As `asyncio.Handle` and `asyncio.TimerHandle`, with the little that is needed."""

    __slots__ = ("_args", "_call", "_context", "_when", "gone")

    def __init__(self, call: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None) -> None:
        self._call = call
        self._args = args
        self._context = context if context is not None else contextvars.copy_context()
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def run(self) -> None:
        owner = self._context.get(OWNER)
        if owner is not None:
            if owner.fuse is not None:
                owner.fuse -= 1
                if owner.fuse < 0:
                    owner.die()
            if owner.dead:
                return
        self._context.run(self._call, *self._args)


class SimLoop(asyncio.AbstractEventLoop):
    """A loop in virtual time. Run with `run_until`; `close` it afterwards."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._closed = False
        self._tasks: list[tuple[asyncio.Task[Any], Owner | None]] = []
        self.outside = contextvars.copy_context()
        self.steps = 0
        self.complaints: list[str] = []

    def time(self) -> float:
        return self._now_s

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return self._closed

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        handle = Handle(callback, args, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **_: Any) -> Any:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        # Kept, for the garbage collector must not end what a dead process left.
        self._tasks.append((task, OWNER.get() if context is None else context.get(OWNER)))
        return task

    def tasks_of(self, owner: Owner) -> "list[asyncio.Task[Any]]":
        """What still runs in a process."""
        return [task for task, its in self._tasks if its is owner and not task.done()]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self._closed:
            self.complaints.append(f"{context.get('message')}: {context.get('exception')!r}")

    def run_until(self, done: Callable[[], bool], *, limit_s: float, limit_steps: int = 200_000) -> bool:
        """Run until `done` says so, or for this many seconds of virtual time; whether it is done.

        Raises:
            RuntimeError: there is no end to it.
        """
        until_s = self._now_s + limit_s
        asyncio._set_running_loop(self)
        try:
            while not done():
                if not self._ready and not self._wake(until_s):
                    return done()
                handle = self._ready.popleft()
                if not handle.gone:
                    self.steps += 1
                    handle.run()
                    if self.steps > limit_steps:
                        raise RuntimeError("the world does not come to rest")
            return True
        finally:
            asyncio._set_running_loop(None)

    def _wake(self, until_s: float) -> bool:
        """Move time to the next timer; False: none is due before `until_s`."""
        timers = self._timers
        while timers and timers[0][2].gone:
            heapq.heappop(timers)
        if not timers or timers[0][0] > until_s:
            self._now_s = until_s
            return False
        when, _, handle = heapq.heappop(timers)
        self._now_s = max(self._now_s, when)
        self._ready.append(handle)
        return True

    def close(self) -> None:
        """End what is left. Coroutines of dead processes see their `GeneratorExit` now, when nobody looks any more."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()
        asyncio._set_running_loop(self)
        try:
            while self._tasks:
                task, _ = self._tasks.pop()
                if not task.done():
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    _close(task.get_coro())
                elif not task.cancelled():
                    task.exception()  # marks it as seen
        finally:
            asyncio._set_running_loop(None)


def _close(coroutine: Any) -> None:
    for _ in range(3):  # one that awaits in its `finally` ignores the first
        try:
            coroutine.close()
            return
        except (RuntimeError, asyncio.CancelledError):
            continue


def run_now(coroutine: Coroutine[Any, Any, Any] | Generator[Any, Any, Any]) -> Any:
    """The result of a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise RuntimeError("it waits")
