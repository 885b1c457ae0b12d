"""What is told live: all accounts first, then what moves, what has ended, and the end."""

import asyncio
from typing import Any

from dashboard.live import Listener, Moves
from tests.dashboard.conftest import Api
from tests.dashboard.test_spend import budget

_DAY_MS = 86_400_000


async def told(listener: Listener) -> dict[str, Any] | None:
    """The next news by account; None: it has ended."""
    async with asyncio.timeout(10):
        moved = await listener.next()
    return None if moved is None else {one["account"]: one for one in moved}


async def test_with_no_account_that_is_told(api: Api) -> None:
    moves = Moves(api.deps)
    async with moves.listen() as first:
        assert await told(first) == {}
        async with moves.listen() as second:
            assert await told(second) == {}


async def test_who_comes_later_hears_all(api: Api) -> None:
    await api.add_budget(budget("daily", "agent:*"))
    await api.spend("agent:one", 1_000)
    moves = Moves(api.deps)
    async with moves.listen() as first:
        known = await told(first)
        assert known is not None and [one["spentUsd"] for one in known.values()] == ["0.000001"]
        async with moves.listen() as second:
            assert await told(second) == known


async def test_an_account_ends_with_its_period(api: Api) -> None:
    await api.add_budget(budget("daily", "agent:*"))
    await api.spend("agent:one", 1_000)
    moves = Moves(api.deps)
    async with moves.listen() as listener:
        known = await told(listener)
        assert known is not None and len(known) == 1
        api.clock.at_ms += _DAY_MS
        assert await told(listener) == {account: {"account": account, "ended": True} for account in known}
        async with moves.listen() as later:
            assert await told(later) == {}


async def test_the_end_of_the_process_is_the_end(api: Api) -> None:
    moves = Moves(api.deps)
    async with moves.listen() as listener:
        assert await told(listener) == {}
        api.deps.stopping.set()
        assert await told(listener) is None
    async with moves.listen() as late:
        assert await told(late) is None
