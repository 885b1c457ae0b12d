"""The bounds of the memory store, to the millisecond: what servers with clocks of their own can't be held to."""

import pytest

from budget.memory_store import MemoryBudgetStore
from budget.model import Basis, Hold, NextHold, ResolveMode
from budget.ports import ACCOUNT_KEPT_AFTER_END_MS, DueHold
from core.errors import InvalidInput, StoreUnavailable
from core.period import Period
from tests.budget.builders import ask, end, events, fixed, spent_and_held, terms
from tests.budget.worker import HandClock

ACCOUNT = terms()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(clock: HandClock) -> MemoryBudgetStore:
    return MemoryBudgetStore(clock.now_ms)


@pytest.mark.parametrize("sign", [-1, 1])
async def test_a_clock_may_be_five_seconds_off_and_no_more(
    store: MemoryBudgetStore, clock: HandClock, sign: int
) -> None:
    with pytest.raises(StoreUnavailable, match="this worker's clock is off the store's; at most 5 s are allowed"):
        await store.reserve(ask("h1", [ACCOUNT], fixed(1), now_ms=clock.at_ms + sign * 5001))
    assert isinstance(await store.reserve(ask("h1", [ACCOUNT], fixed(1), now_ms=clock.at_ms + sign * 5000)), Hold)


async def test_a_lease_is_over_in_the_millisecond_in_which_it_ends(store: MemoryBudgetStore, clock: HandClock) -> None:
    await store.reserve(ask("h1", [ACCOUNT], fixed(30), now_ms=clock.at_ms, lease_ms=1000))
    clock.at_ms += 999
    assert await store.due(10) == []
    assert not (await end(store, ResolveMode.EXPIRE, "h1", [ACCOUNT])).applied
    clock.at_ms += 1
    assert await store.due(10) == [DueHold("h1", (ACCOUNT.id,))]
    assert (await end(store, ResolveMode.EXPIRE, "h1", [ACCOUNT], basis=Basis.UNCONFIRMED)).delta_nano == 30
    assert await spent_and_held(store, ACCOUNT) == (30, 0)


async def test_an_account_is_current_until_its_period_ends(store: MemoryBudgetStore, clock: HandClock) -> None:
    account = terms(period=Period("2026-11-23", 0, 5000))
    await store.reserve(ask("h1", [account], fixed(1), now_ms=clock.at_ms))
    assert await store.current_accounts(4999) == [account.id]
    assert await store.current_accounts(5000) == []
    [limits] = await events(store, "terms")
    assert (limits["period_end_ms"], limits["keep_until_ms"]) == ("5000", str(5000 + ACCOUNT_KEPT_AFTER_END_MS))


async def test_the_next_hold_may_take_all_that_is_left_and_no_more(store: MemoryBudgetStore, clock: HandClock) -> None:
    await store.reserve(ask("h1", [ACCOUNT], fixed(30), now_ms=clock.at_ms))
    with pytest.raises(InvalidInput, match="must fit into what the cost leaves of its hold") as caught:
        await end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 10, following=NextHold("h2", 21))
    assert caught.value.field == "nextHold"
    assert await spent_and_held(store, ACCOUNT) == (0, 30), "refused before anything is done"
    await end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 10, following=NextHold("h2", 20))
    assert await spent_and_held(store, ACCOUNT) == (10, 20)


async def test_events_are_read_in_pages(store: MemoryBudgetStore) -> None:
    for number in range(5):
        await store.put("budget", str(number), b"{}")
    first = await store.events(count=2)
    assert [e["id"] for _, e in first] == ["budget:0", "budget:1"]
    last_id = first[-1][0]
    assert [e["id"] for _, e in await store.events(f"({last_id}", 2)] == ["budget:2", "budget:3"]
    assert [e["id"] for _, e in await store.events(last_id, 2)] == ["budget:1", "budget:2"]
