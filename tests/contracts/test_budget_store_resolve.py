"""What every store does at the end of a hold: each cell of the table at the head of lua/resolve.lua, and around it."""

import asyncio

import pytest

from budget.model import Basis, Hold, HoldStatus, NextHold, RefusalCode, ResolveMode, Settlement
from budget.ports import FoundHold
from core.errors import InvalidInput
from tests.budget.builders import (
    Store,
    ask,
    end,
    events,
    fixed,
    held,
    refused,
    spent_and_held,
    terms,
)

NONE, HELD, SETTLED, VOIDED, EXPIRED = HoldStatus
SETTLE, VOID, EXPIRE, TRUE_UP, POST = ResolveMode

HOLD, COST, NEW_COST = 30, 20, 12

#: (status before, mode): None for no effect, or (delta, overage, status after).
TABLE = {
    (NONE, SETTLE): (12, 0, SETTLED),
    (NONE, VOID): (0, 0, VOIDED),
    (NONE, EXPIRE): None,
    (NONE, TRUE_UP): None,
    (NONE, POST): (12, 0, SETTLED),
    (HELD, SETTLE): (12, 0, SETTLED),
    (HELD, VOID): (0, 0, VOIDED),
    (HELD, EXPIRE): (30, 0, EXPIRED),
    (HELD, TRUE_UP): None,
    (HELD, POST): None,
    (SETTLED, SETTLE): None,
    (SETTLED, VOID): None,
    (SETTLED, EXPIRE): None,
    (SETTLED, TRUE_UP): (-8, 0, SETTLED),
    (SETTLED, POST): None,
    (VOIDED, SETTLE): (12, 0, SETTLED),
    (VOIDED, VOID): None,
    (VOIDED, EXPIRE): None,
    (VOIDED, TRUE_UP): None,
    (VOIDED, POST): None,
    (EXPIRED, SETTLE): (-18, 0, SETTLED),
    (EXPIRED, VOID): (-30, 0, VOIDED),
    (EXPIRED, EXPIRE): None,
    (EXPIRED, TRUE_UP): (-18, 0, EXPIRED),
    (EXPIRED, POST): None,
}
SPENT_BEFORE = {NONE: 0, HELD: 0, SETTLED: COST, VOIDED: 0, EXPIRED: HOLD}
ACCOUNT = terms(limit=1000)


async def bring_to(store: Store, status: HoldStatus) -> None:
    """A hold `h1` in this status, its lease over."""
    if status is NONE:
        return
    await held(store, "h1", HOLD, ACCOUNT, lease_ms=0)
    if status is SETTLED:
        await end(store, SETTLE, "h1", [ACCOUNT], COST)
    elif status is VOIDED:
        await end(store, VOID, "h1", [ACCOUNT])
    elif status is EXPIRED:
        assert (await end(store, EXPIRE, "h1", [ACCOUNT])).applied


def test_the_table_is_complete() -> None:
    assert set(TABLE) == {(status, mode) for status in HoldStatus for mode in ResolveMode}


@pytest.mark.parametrize(("status", "mode"), list(TABLE), ids=lambda v: v.value)
async def test_each_end_of_each_status(store: Store, status: HoldStatus, mode: ResolveMode) -> None:
    await bring_to(store, status)
    before = await events(store)
    settlement = await end(store, mode, "h1", [ACCOUNT], NEW_COST)
    effect = TABLE[status, mode]
    delta, overage, after = effect or (0, 0, status)
    balance = (SPENT_BEFORE[status] + delta, HOLD if after is HELD else 0)
    assert settlement == Settlement(status, effect is not None, delta, overage, (balance,))
    assert await spent_and_held(store, ACCOUNT) == balance
    found = await store.find("h1")
    assert (found.status if found else NONE) is after
    written = (await events(store))[len(before) :]
    silent = effect is None or (status, mode) == (NONE, VOID)
    assert [(e["type"], e["before"], e["delta_nano"]) for e in written] == (
        [] if silent else [(mode.value, status.value, str(delta))]
    )

    again = await end(store, mode, "h1", [ACCOUNT], NEW_COST)
    assert again == Settlement(after, False, 0, 0, (balance,))
    assert len(await events(store)) == len(before) + len(written)


async def test_a_live_lease_does_not_expire(store: Store) -> None:
    await held(store, "h1", HOLD, ACCOUNT)
    assert await end(store, EXPIRE, "h1", [ACCOUNT]) == Settlement(HELD, False, 0, 0, ((0, HOLD),))
    assert await store.due(10) == []


async def test_an_extended_lease_lives_on(store: Store) -> None:
    await held(store, "h1", HOLD, ACCOUNT, lease_ms=0)
    await held(store, "h2", HOLD, ACCOUNT, lease_ms=0)
    await end(store, VOID, "h2", [ACCOUNT])
    assert await store.extend(["h1", "h2", "never"], 3_600_000) == ["h2", "never"]
    assert await store.due(10) == []
    assert not (await end(store, EXPIRE, "h1", [ACCOUNT])).applied
    assert await store.extend([], 1) == []


async def test_a_hold_that_is_asked_for_again_has_its_whole_lease(store: Store) -> None:
    await held(store, "h1", HOLD, ACCOUNT, lease_ms=0)
    await store.reserve(ask("h1", [ACCOUNT], fixed(HOLD), lease_ms=60_000))
    assert await store.due(10) == []


async def test_a_lease_ends_by_the_stores_clock(store: Store) -> None:
    await held(store, "h1", HOLD, ACCOUNT, lease_ms=1)
    async with asyncio.timeout(5):
        while not await store.due(10):
            await asyncio.sleep(0)
    assert (await end(store, EXPIRE, "h1", [ACCOUNT])).delta_nano == HOLD
    assert await store.due(10) == []


async def test_due_holds_come_oldest_first_with_their_accounts(store: Store) -> None:
    other = terms("other")
    await store.reserve(ask("h2", [ACCOUNT, other], fixed(1, "-1"), lease_ms=-1000))
    await held(store, "h1", 1, ACCOUNT, other, lease_ms=-2000)
    await held(store, "h3", 1, ACCOUNT)
    due = await store.due(10)
    assert [(d.id, d.account_ids) for d in due] == [("h1", (ACCOUNT.id, other.id)), ("h2", (other.id,))]
    assert [d.id for d in await store.due(1)] == ["h1"]


async def test_an_expiry_keeps_what_the_call_was(store: Store) -> None:
    await store.reserve(ask("h1", [ACCOUNT], fixed(HOLD), lease_ms=0, detail='{"é":1}'.encode()))
    await end(store, EXPIRE, "h1", [ACCOUNT], basis=Basis.UNCONFIRMED)
    [event] = await events(store, "expire")
    assert (event["detail"], event["basis"], event["held_nano"]) == ('{"é":1}', "unconfirmed", "30")


async def test_a_cost_above_the_hold_is_posted_in_full_and_stops_the_next(store: Store) -> None:
    account = terms(limit=100)
    await held(store, "h1", 30, account)
    settlement = await end(store, SETTLE, "h1", [account], 130)
    assert (settlement.delta_nano, settlement.overage_nano) == (130, 100)
    assert await spent_and_held(store, account) == (130, 0)
    [event] = await events(store, "settle")
    assert (event["overage_nano"], event["spent_after"]) == ("100", "130")
    assert (await refused(store, "h2", 1, account)).code is RefusalCode.STOPPED


async def test_an_event_tells_everything(store: Store) -> None:
    other = terms("other")
    await held(store, "h1", 30, ACCOUNT, other)
    await end(store, SETTLE, "h1", [ACCOUNT, other], 20, basis=Basis.ESTIMATED, detail=b'{"m":"x"}')
    [event] = await events(store)
    assert int(event.pop("at_ms")) > 1_700_000_000_000
    assert event == {
        "seq": "4",
        "type": "settle",
        "hold": "h1",
        "before": "held",
        "cost_nano": "20",
        "delta_nano": "20",
        "overage_nano": "0",
        "held_nano": "30",
        "basis": "estimated",
        "accounts": f"{ACCOUNT.id}\n{other.id}",
        "spent_after": "20 20",
        "detail": '{"m":"x"}',
    }


async def test_limits_and_holds_have_events_too(store: Store) -> None:
    await store.reserve(ask("h1", [ACCOUNT], fixed(30), detail=b'{"m":"x"}'))
    await store.reserve(ask("h1", [ACCOUNT], fixed(30)))  # asked again: the same hold
    await end(store, VOID, "h1", [ACCOUNT], following=NextHold("h2", 20, b'{"m":"y"}'))
    [limits] = await events(store, "terms")
    assert (limits["account"], limits["terms"]) == (ACCOUNT.id, "1000 800 1000")
    first, second = await events(store, "hold")
    assert int(first.pop("at_ms")) > 1_700_000_000_000
    same = {"type": "hold", "candidate": "0", "tokens": "1", "accounts": ACCOUNT.id, "owner": "worker"}
    assert first == same | {"seq": "2", "hold": "h1", "amount_nano": "30", "detail": '{"m":"x"}'}
    del second["at_ms"]
    assert second == same | {"seq": "4", "hold": "h2", "amount_nano": "20", "detail": '{"m":"y"}'}


async def test_only_the_accounts_of_the_hold_are_touched(store: Store) -> None:
    chain = [terms("a"), terms("b"), terms("c")]
    await store.reserve(ask("h1", chain, fixed(30, "1-1")))
    settlement = await end(store, SETTLE, "h1", list(reversed(chain)), 20)
    assert settlement.balances == ((20, 0), (0, 0), (20, 0))
    [event] = await events(store, "settle")
    assert event["accounts"] == f"{chain[0].id}\n{chain[2].id}"
    assert await store.current_accounts(0) == [chain[0].id, chain[2].id]


async def test_the_stored_balances_are_in_the_order_of_the_accounts(store: Store) -> None:
    first, second = terms("first"), terms("second")
    await held(store, "h0", 5, second)
    await end(store, SETTLE, "h0", [second], 5)
    await held(store, "h1", 1, first, second)
    await end(store, SETTLE, "h1", [second, first], 1)
    event = (await events(store, "settle"))[-1]
    assert (event["accounts"], event["spent_after"]) == (f"{first.id}\n{second.id}", "1 6")


async def test_an_end_that_forgets_an_account_of_the_hold_does_nothing(store: Store) -> None:
    first, second = terms("first"), terms("second")
    await held(store, "h1", 30, first, second)
    with pytest.raises(InvalidInput, match="accountIds"):
        await end(store, SETTLE, "h1", [first], 20)
    assert await spent_and_held(store, first) == (0, 30)
    assert await spent_and_held(store, second) == (0, 30)


async def test_a_hand_over_keeps_held_exact(store: Store) -> None:
    other = terms("other")
    await held(store, "h1", 30, ACCOUNT, other)
    first = await end(store, SETTLE, "h1", [ACCOUNT, other], 5, following=NextHold("h2", 25, b'{"n":2}'))
    assert (first.before, first.applied, first.balances) == (HELD, True, ((5, 25), (5, 25)))
    assert await store.find("h2") == FoundHold(HELD, (ACCOUNT.id, other.id), 25, 0)
    second = await end(store, VOID, "h2", [ACCOUNT, other], following=NextHold("h3", 10))
    assert second.balances == ((5, 10), (5, 10))
    third = await end(store, SETTLE, "h3", [ACCOUNT, other], 10)
    assert third.balances == ((15, 0), (15, 0))
    assert sum(int(e["delta_nano"]) for e in await events(store)) == 15


async def test_a_hand_over_holds_on_a_subset_too(store: Store) -> None:
    other = terms("other")
    await store.reserve(ask("h1", [ACCOUNT, other], fixed(30, "-1")))
    moved = await end(store, VOID, "h1", [ACCOUNT, other], following=NextHold("h2", 30))
    assert moved.balances == ((0, 0), (0, 30))
    assert (await end(store, SETTLE, "h2", [other], 7)).balances == ((7, 0),)


async def test_a_hand_over_of_a_hold_that_has_ended_holds_nothing(store: Store) -> None:
    await bring_to(store, EXPIRED)
    late = await end(store, SETTLE, "h1", [ACCOUNT], 5, following=NextHold("h2", 25))
    assert (late.before, late.applied, late.balances) == (EXPIRED, True, ((5, 0),))
    assert await store.find("h2") is None


async def test_a_hand_over_repeated_has_one_effect(store: Store) -> None:
    await held(store, "h1", 30, ACCOUNT)
    for applied in (True, False):
        moved = await end(store, VOID, "h1", [ACCOUNT], following=NextHold("h2", 30))
        assert (moved.applied, moved.balances) == (applied, ((0, 30),))


async def test_a_hand_over_takes_no_more_than_there_was(store: Store) -> None:
    await held(store, "h1", 30, ACCOUNT)
    with pytest.raises(InvalidInput, match="nextHold"):
        await end(store, SETTLE, "h1", [ACCOUNT], 6, following=NextHold("h2", 25))
    assert await spent_and_held(store, ACCOUNT) == (0, 30)
    assert await store.find("h2") is None


async def test_a_handed_over_hold_has_its_own_lease(store: Store) -> None:
    await held(store, "h1", 30, ACCOUNT, lease_ms=0)
    await end(store, VOID, "h1", [ACCOUNT], following=NextHold("h2", 30, b'{"n":2}'))
    assert await store.due(10) == []
    assert await store.extend(["h2"], -1) == []
    assert [d.id for d in await store.due(10)] == ["h2"]
    await end(store, EXPIRE, "h2", [ACCOUNT])
    assert (await events(store, "expire"))[0]["detail"] == '{"n":2}'


async def test_after_a_true_up_a_late_settlement_has_the_last_word(store: Store) -> None:
    await bring_to(store, EXPIRED)
    assert (await end(store, TRUE_UP, "h1", [ACCOUNT], 25)).delta_nano == -5
    assert (await end(store, SETTLE, "h1", [ACCOUNT], 20)).delta_nano == -5
    assert not (await end(store, TRUE_UP, "h1", [ACCOUNT], 99)).applied
    assert await spent_and_held(store, ACCOUNT) == (20, 0)


async def test_a_late_settlement_charges_the_account_of_the_reserve(store: Store) -> None:
    """The period is fixed at the reserve: nothing that happens later moves the money to another account."""
    old, new = terms("bot", budget_id="nov"), terms("bot", budget_id="dec")
    await held(store, "h1", 30, old)
    await held(store, "h2", 10, new)
    await end(store, SETTLE, "h1", [old, new], 20)
    assert await spent_and_held(store, old) == (20, 0)
    assert await spent_and_held(store, new) == (0, 10)


async def test_taking_money_back_can_lower_the_state(store: Store) -> None:
    account = terms(limit=30)
    await held(store, "h1", 30, account, lease_ms=0)
    await end(store, EXPIRE, "h1", [account])
    await end(store, VOID, "h1", [account])
    moves = [(e["from"], e["to"], e["why"]) for e in await events(store, "state")]
    assert moves == [("0", "3", "spend"), ("3", "0", "spend")]
    assert isinstance(await store.reserve(ask("h2", [account], fixed(30))), Hold)


@pytest.mark.parametrize("cost", [-1, 2**53, 2**63, 10**30])
async def test_a_cost_out_of_range_is_refused_and_changes_nothing(store: Store, cost: int) -> None:
    await held(store, "h1", 30, ACCOUNT)
    with pytest.raises(InvalidInput, match="cost"):
        await end(store, SETTLE, "h1", [ACCOUNT], cost)
    assert await spent_and_held(store, ACCOUNT) == (0, 30)
    assert await events(store) == []


async def test_ends_that_race_have_one_effect(store: Store) -> None:
    await held(store, "h1", 30, ACCOUNT, lease_ms=0)
    modes = [SETTLE, EXPIRE, SETTLE, EXPIRE, SETTLE] * 10
    await asyncio.gather(*(end(store, mode, "h1", [ACCOUNT], 20) for mode in modes))
    assert await spent_and_held(store, ACCOUNT) == (20, 0)
    assert sum(int(e["delta_nano"]) for e in await events(store)) == 20
