"""Loaded by every Python process that has this folder on PYTHONPATH; acts in workers of the gateway only.

`FAULT_FOLDER` names a folder that a test puts files in:

    die-<point>   the first worker that reaches the point takes the file and is gone, as after kill -9;
                  with text in it, the first that resolves a hold on an account of such a name
    disk-full     journals can't be written
    clock-ms      a number: how much later these workers' wall clock is
"""

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

_folder = Path(os.environ.get("FAULT_FOLDER", "/nowhere"))


def _reach(point: str, accounts: str = "") -> None:
    armed = _folder / f"die-{point}"
    with contextlib.suppress(FileNotFoundError):
        if armed.read_text() not in accounts:
            return
        armed.rename(_folder / f"died-{point}")  # one process succeeds
        os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: Any, name: str, point_of: Callable[..., str | None]) -> None:
    """Die before or after an async method, where `point_of` names the point from its arguments."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    async def wrapped(*args: Any, **named: Any) -> Any:
        point = point_of(*args, **named)
        if point is None:
            return await original(*args, **named)
        _reach(f"before-{point}")
        result = await original(*args, **named)
        _reach(f"after-{point}")
        return result

    _replace(owner, name, wrapped)


def _wrap_begun(owner: Any, name: str, point_of: Callable[..., str | None]) -> None:
    """The same for a method that has begun when it returns: `after` is when its answer has come."""
    original: Callable[..., Awaitable[Any]] = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Awaitable[Any]:
        point = point_of(*args, **named)
        if point is None:
            return original(*args, **named)
        accounts = " ".join(getattr(args[1], "account_ids", ()))
        _reach(f"before-{point}", accounts)
        begun = asyncio.ensure_future(original(*args, **named))
        begun.add_done_callback(lambda _: _reach(f"after-{point}", accounts))
        return begun

    _replace(owner, name, wrapped)


def _replace(owner: Any, name: str, value: Callable[..., Any]) -> None:
    setattr(owner, name, value)


def _wrap_store() -> None:
    from budget.journal import Journal
    from budget.redis_store import RedisBudgetStore

    def of_resolution(_: Any, resolution: Any) -> str | None:
        return "hand-over" if resolution.next_hold else str(resolution.mode.value)

    _wrap_begun(RedisBudgetStore, "reserve", lambda *_: "reserve")
    _wrap_begun(RedisBudgetStore, "resolve", of_resolution)
    _wrap(RedisBudgetStore, "extend", lambda _, holds, __: "renew" if holds else None)
    add, clear = Journal.add, Journal.clear

    def dying_add(self: Journal, resolution: Any) -> bool:
        _reach("before-journal")
        done = add(self, resolution)
        _reach("after-journal")
        return done

    def dying_clear(self: Journal) -> None:
        if self._bytes:
            _reach("before-clear")
        clear(self)

    _replace(Journal, "add", dying_add)
    _replace(Journal, "clear", dying_clear)


def _wrap_upstream() -> None:
    from routing.adapters.http import EventSource, HttpClient

    _wrap(HttpClient, "post", lambda *_: "send")
    _wrap(HttpClient, "open", lambda *_: "open")
    feed, respond = EventSource.feed, HttpClient._respond

    def dying_feed(self: EventSource, piece: bytes) -> None:
        _reach("before-chunk")
        feed(self, piece)
        _reach("after-chunk")

    _replace(EventSource, "feed", dying_feed)

    async def dying_respond(self: HttpClient, *args: Any) -> Any:
        """Can be killed at any time while it waits: a test that has seen the request arrive does so."""
        waiting = asyncio.ensure_future(respond(self, *args))
        try:
            while not waiting.done():
                _reach("waiting")
                await asyncio.wait({waiting}, timeout=0.01)
            return await waiting
        finally:
            waiting.cancel()

    _replace(HttpClient, "_respond", dying_respond)


def _fill_disk() -> None:
    write = os.write

    def full_write(fd: int, data: bytes, /) -> int:
        if (_folder / "disk-full").exists() and Path(f"/proc/self/fd/{fd}").readlink().suffix == ".journal":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    _replace(os, "write", full_write)


def _move_clock() -> None:
    from core.clock import SystemClock

    now_ms = SystemClock.now_ms

    def moved(self: SystemClock) -> int:
        with contextlib.suppress(FileNotFoundError):
            return now_ms(self) + int((_folder / "clock-ms").read_text() or 0)
        return now_ms(self)

    _replace(SystemClock, "now_ms", moved)


if "spendgate.worker" in sys.orig_argv:
    _wrap_store()
    _wrap_upstream()
    _fill_disk()
    _move_clock()
