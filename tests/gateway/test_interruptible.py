"""A client that leaves interrupts what is awaited for it, and nothing else."""

import asyncio
from collections.abc import Callable

import pytest

from gateway.http import ClientGone, Interruptible


class Caller:
    """A `gateway.http.Client` that a test sends away."""

    def __init__(self) -> None:
        self.gone = False
        self.task: asyncio.Task[object] | None = None
        self.on_leave: Callable[[], None] | None = None

    def leave(self) -> None:
        self.gone = True
        if self.on_leave is not None:
            self.on_leave()


async def awaited(caller: Caller | None, patience_s: float, seconds: float = 60.0) -> str:
    with Interruptible(caller, patience_s):
        await asyncio.sleep(seconds)
    return "done"


async def started(caller: Caller, patience_s: float, seconds: float = 60.0) -> "asyncio.Task[str]":
    task = asyncio.create_task(awaited(caller, patience_s, seconds))
    await asyncio.sleep(0)
    return task


async def test_nobody_waits_any_more() -> None:
    caller = Caller()
    task = await started(caller, 0.0)
    caller.leave()
    with pytest.raises(ClientGone):
        await task
    assert task.cancelling() == 0 and caller.on_leave is None


async def test_a_while_is_waited_all_the_same() -> None:
    caller = Caller()
    finishing, endless = await started(caller, 60.0, 0.01), Caller()
    caller.leave()
    assert await finishing == "done"
    task = await started(endless, 0.01)
    endless.leave()
    with pytest.raises(ClientGone):
        await task


async def test_who_has_left_already_is_not_served() -> None:
    caller = Caller()
    caller.leave()
    with pytest.raises(ClientGone):
        await awaited(caller, 0.0)
    assert await awaited(caller, 60.0, 0.0) == "done"


async def test_a_call_that_is_carried_to_its_end_has_no_client() -> None:
    assert await awaited(None, 0.0, 0.0) == "done"


async def test_an_end_from_outside_stays_one() -> None:
    caller = Caller()
    task = await started(caller, 60.0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert caller.on_leave is None


async def test_both_at_once_is_an_end_from_outside() -> None:
    caller = Caller()
    task = await started(caller, 0.0)
    task.cancel()
    caller.leave()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_what_goes_wrong_inside_is_told() -> None:
    caller = Caller()
    with pytest.raises(ZeroDivisionError), Interruptible(caller, 0.0):
        raise ZeroDivisionError
    assert caller.on_leave is None
