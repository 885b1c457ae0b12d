"""What every store of the live state does when it is asked for money."""

import asyncio
from dataclasses import replace

import pytest

from budget.model import Basis, BudgetState, Hold, Refusal, RefusalCode, Resolution, ResolveMode, StaleSnapshot
from core.errors import Conflict, StoreUnavailable
from core.period import Period
from tests.budget.builders import (
    Store,
    ask,
    end,
    events,
    fixed,
    held,
    metered,
    refused,
    spent_and_held,
    terms,
    wall_ms,
)


async def test_a_hold_takes_from_what_is_free_and_shows_the_balances(store: Store) -> None:
    account = terms()
    hold = await held(store, "h1", 30, account)
    assert (hold.id, hold.candidate, hold.tokens, hold.amount_nano) == ("h1", 0, 1, 30)
    assert [(b.spent_nano, b.held_nano, b.state) for b in hold.balances] == [(0, 30, BudgetState.ACTIVE)]
    assert await spent_and_held(store, account) == (0, 30)


async def test_money_is_held_up_to_the_hard_cap_exactly(store: Store) -> None:
    account = terms(limit=100, hard=120)
    await held(store, "h1", 119, account)
    await refused(store, "h2", 2, account)
    await held(store, "h3", 1, account)
    assert await spent_and_held(store, account) == (0, 120)


async def test_nothing_is_held_anywhere_if_one_account_of_the_chain_refuses(store: Store) -> None:
    wide, narrow = terms("wide", limit=100), terms("narrow", limit=10)
    verdict = await refused(store, "h1", 11, wide, narrow)
    assert (verdict.code, verdict.account, verdict.needed_nano) == (RefusalCode.EXCEEDED, 1, 11)
    assert await spent_and_held(store, wide) == (0, 0)
    assert await spent_and_held(store, narrow) == (0, 0)
    assert await store.find("h1") is None
    assert await store.due(10) == []


async def test_the_first_candidate_that_fits_is_taken(store: Store) -> None:
    account = terms(limit=50)
    verdict = await store.reserve(ask("h1", [account], fixed(60), fixed(40), fixed(10)))
    assert isinstance(verdict, Hold)
    assert (verdict.candidate, verdict.amount_nano) == (1, 40)


@pytest.mark.parametrize(
    ("limit", "tokens", "amount"), [(1010, 100, 1010), (1009, 99, 1000), (210, 20, 210), (219, 20, 210)]
)
async def test_an_answer_is_shortened_as_little_as_possible(store: Store, limit: int, tokens: int, amount: int) -> None:
    account = terms(limit=limit)
    verdict = await store.reserve(ask("h1", [account], metered(10, 10, 100, 20)))
    assert isinstance(verdict, Hold)
    assert (verdict.tokens, verdict.amount_nano) == (tokens, amount)


async def test_a_fraction_of_a_nano_dollar_is_held_as_a_whole_one(store: Store) -> None:
    candidate = fixed(0)
    candidate = type(candidate)("m", 5, 1, 3, 3, "1")  # 5 nano + 3 tokens of 1 pico
    verdict = await store.reserve(ask("h1", [terms()], candidate))
    assert isinstance(verdict, Hold)
    assert verdict.amount_nano == 6


async def test_below_the_floor_it_is_not_shortened_but_downgraded(store: Store) -> None:
    account = terms(limit=209)
    verdict = await store.reserve(ask("h1", [account], metered(10, 10, 100, 20), fixed(7)))
    assert isinstance(verdict, Hold)
    assert (verdict.candidate, verdict.tokens, verdict.amount_nano) == (1, 1, 7)


async def test_a_degraded_account_admits_only_what_its_mark_allows(store: Store) -> None:
    account = terms(limit=50, hard=100)
    await held(store, "h1", 60, account)
    await end(store, ResolveMode.SETTLE, "h1", [account], 60)
    verdict = await store.reserve(ask("h2", [account], fixed(5, "0"), fixed(6, "1")))
    assert isinstance(verdict, Hold)
    assert verdict.candidate == 1
    assert verdict.balances[0].state is BudgetState.DEGRADED
    nothing = await store.reserve(ask("h3", [account], fixed(5, "0")))
    assert isinstance(nothing, Refusal)
    assert (nothing.code, nothing.account, nothing.needed_nano) == (RefusalCode.NO_MODEL, None, 0)


async def test_a_candidate_is_held_only_on_the_accounts_that_watch_it(store: Store) -> None:
    agent, model = terms("agent"), terms("model", limit=1)
    verdict = await store.reserve(ask("h1", [agent, model], fixed(30, "1-")))
    assert isinstance(verdict, Hold)
    assert await spent_and_held(store, agent) == (0, 30)
    assert await spent_and_held(store, model) == (0, 0)
    found = await store.find("h1")
    assert found is not None
    assert found.account_ids == (agent.id,)


async def test_without_a_budget_nothing_is_admitted(store: Store) -> None:
    none = await store.reserve(ask("h1", [], fixed(1, "")))
    assert isinstance(none, Refusal)
    assert (none.code, none.account, none.balances) == (RefusalCode.NO_BUDGET, None, ())
    unwatched = await store.reserve(ask("h2", [terms()], fixed(1, "-")))
    assert isinstance(unwatched, Refusal)
    assert unwatched.code is RefusalCode.NO_BUDGET


async def test_without_a_candidate_nothing_is_admitted(store: Store) -> None:
    verdict = await store.reserve(ask("h1", [terms()]))
    assert isinstance(verdict, Refusal)
    assert verdict.code is RefusalCode.NO_MODEL


async def test_spent_money_refuses_for_good_and_money_in_flight_for_now(store: Store) -> None:
    account = terms()
    await held(store, "h1", 60, account)
    for_now = await refused(store, "h2", 50, account)
    assert (for_now.code, for_now.account, for_now.needed_nano) == (RefusalCode.HELD, 0, 50)
    assert (for_now.balances[0].spent_nano, for_now.balances[0].held_nano) == (0, 60)
    await end(store, ResolveMode.SETTLE, "h1", [account], 60)
    assert (await refused(store, "h3", 50, account)).code is RefusalCode.EXCEEDED


async def test_a_call_that_could_be_shorter_waits_for_money_in_flight(store: Store) -> None:
    account = terms()
    await held(store, "h1", 90, account)
    verdict = await store.reserve(ask("h2", [account], metered(10, 10, 50, 5)))
    assert isinstance(verdict, Refusal)
    assert (verdict.code, verdict.needed_nano) == (RefusalCode.HELD, 60)


async def test_waiting_is_advised_if_it_helps_any_candidate(store: Store) -> None:
    account = terms()
    await held(store, "h1", 95, account)
    dear_first = await store.reserve(ask("h2", [account], fixed(200), fixed(10)))
    cheap_first = await store.reserve(ask("h3", [account], fixed(10), fixed(200)))
    assert isinstance(dear_first, Refusal) and isinstance(cheap_first, Refusal)
    assert (dear_first.code, dear_first.needed_nano) == (RefusalCode.HELD, 10)
    assert (cheap_first.code, cheap_first.needed_nano) == (RefusalCode.HELD, 10)


async def test_a_stopped_account_refuses_also_what_would_fit(store: Store) -> None:
    account = terms(limit=100, smallest=10)
    await held(store, "h1", 91, account)
    await end(store, ResolveMode.SETTLE, "h1", [account], 91)
    verdict = await refused(store, "h2", 1, account)
    assert (verdict.code, verdict.account) == (RefusalCode.STOPPED, 0)
    assert verdict.balances[0].state is BudgetState.STOPPED


async def test_a_limit_of_nothing_admits_nothing(store: Store) -> None:
    assert (await refused(store, "h1", 0, terms(limit=0))).code is RefusalCode.STOPPED


async def test_a_call_that_costs_nothing_is_held_and_settled(store: Store) -> None:
    account = terms()
    await held(store, "h1", 0, account)
    settlement = await end(store, ResolveMode.SETTLE, "h1", [account], 0)
    assert settlement.applied
    assert await spent_and_held(store, account) == (0, 0)


async def test_a_lowered_limit_stops_and_a_raised_one_resumes(store: Store) -> None:
    await held(store, "h1", 70, terms(limit=100))
    await end(store, ResolveMode.SETTLE, "h1", [terms(limit=100)], 70)
    assert (await refused(store, "h2", 1, terms(limit=50))).code is RefusalCode.STOPPED
    await held(store, "h3", 1, terms(limit=200))
    moves = [(e["from"], e["to"], e["cause"], e["why"]) for e in await events(store, "state")]
    assert moves == [("0", "3", "h2", "limits"), ("3", "0", "h3", "limits")]


async def test_a_lowered_limit_holds_for_calls_in_flight_too(store: Store) -> None:
    """No flapping: a settlement judges by the newest limits, also when those admitted nothing."""
    await held(store, "h1", 40, terms(limit=100))
    await held(store, "h2", 10, terms(limit=100))
    await end(store, ResolveMode.SETTLE, "h1", [terms()], 40)
    await refused(store, "h3", 1, terms(limit=30))
    await end(store, ResolveMode.SETTLE, "h2", [terms()], 10)
    assert [(e["from"], e["to"]) for e in await events(store, "state")] == [("0", "3")]


async def test_each_crossing_is_one_event_with_its_cause(store: Store) -> None:
    account = terms(limit=50, soft=40, hard=60)
    for number, cost in enumerate([40, 1, 9, 1, 8, 1]):
        await held(store, f"h{number}", cost, account)
        await end(store, ResolveMode.SETTLE, f"h{number}", [account], cost)
    for number in range(3):
        await refused(store, f"r{number}", 1, account)
    moves = await events(store, "state")
    assert [(e["from"], e["to"], e["cause"], e["spent_nano"]) for e in moves] == [
        ("0", "1", "h1", "41"),
        ("1", "2", "h3", "51"),
        ("2", "3", "h5", "60"),
    ]
    assert {e["account"] for e in moves} == {account.id}
    assert {e["why"] for e in moves} == {"spend"}
    assert {e["limit_nano"] for e in moves} == {"50"}


async def test_asking_twice_with_one_id_gives_the_same_hold(store: Store) -> None:
    account = terms()
    first = await held(store, "h1", 30, account)
    again = await store.reserve(ask("h1", [account], fixed(99), version=7, now_ms=0))
    assert again == first
    assert await spent_and_held(store, account) == (0, 30)


async def test_an_id_that_has_ended_is_not_held_again(store: Store) -> None:
    account = terms()
    await held(store, "h1", 30, account)
    await end(store, ResolveMode.SETTLE, "h1", [account], 20)
    with pytest.raises(Conflict, match="settled"):
        await store.reserve(ask("h1", [account], fixed(1)))


async def test_a_void_that_comes_first_bars_a_late_reserve(store: Store) -> None:
    account = terms()
    settlement = await end(store, ResolveMode.VOID, "h1", [account])
    assert (settlement.applied, settlement.delta_nano) == (True, 0)
    with pytest.raises(Conflict, match="voided"):
        await store.reserve(ask("h1", [account], fixed(1)))
    assert await spent_and_held(store, account) == (0, 0)
    assert await events(store) == []
    assert await store.current_accounts(0) == []


async def test_a_worker_with_old_budgets_is_sent_to_read_them_again(store: Store) -> None:
    version = await store.put("budget", "b", b"{}")
    old = await store.reserve(ask("h1", [terms()], fixed(1), version=version - 1))
    assert old == StaleSnapshot(version)
    assert isinstance(await store.reserve(ask("h1", [terms()], fixed(1), version=version)), Hold)


@pytest.mark.parametrize("off_ms", [-6_000, 6_000, 3_600_000, -31_536_000_000])
async def test_a_worker_whose_clock_is_off_is_refused(store: Store, off_ms: int) -> None:
    with pytest.raises(StoreUnavailable, match="clock"):
        await store.reserve(ask("h1", [terms()], fixed(1), now_ms=wall_ms() + off_ms))
    assert await store.find("h1") is None


@pytest.mark.parametrize("off_ms", [-4_000, 4_000])
async def test_a_clock_that_is_a_little_off_is_fine(store: Store, off_ms: int) -> None:
    verdict = await store.reserve(ask("h1", [terms()], fixed(1), now_ms=wall_ms() + off_ms))
    assert isinstance(verdict, Hold)


async def test_amounts_just_below_2_to_the_53_are_exact(store: Store) -> None:
    most = 2**53 - 1
    account = terms(limit=most)
    await held(store, "h1", most - 1, account)
    await held(store, "h2", 1, account)
    assert await spent_and_held(store, account) == (0, most)
    assert (await refused(store, "h3", 1, account)).code is RefusalCode.HELD
    await end(store, ResolveMode.SETTLE, "h1", [account], most - 1)
    assert await spent_and_held(store, account) == (most - 1, 1)
    await end(store, ResolveMode.SETTLE, "h2", [account], 1)
    assert await spent_and_held(store, account) == (most, 0)
    [first, second] = await events(store, "settle")
    assert (first["cost_nano"], second["spent_after"]) == (str(most - 1), str(most))


@pytest.mark.parametrize(
    "key",
    ["名前 🤖", "a:b:c", "{other-slot}", "\"quoted\" 'too'", "two words", "a%20b\\n[x]*?", "é" * 256, "-"],
)
async def test_a_scope_key_may_be_any_text(store: Store, key: str) -> None:
    account, plain = terms(key), terms("plain")
    await held(store, "h1", 30, account, plain)
    found = await store.find("h1")
    assert found is not None
    assert found.account_ids == (account.id, plain.id)
    await end(store, ResolveMode.SETTLE, "h1", [account, plain], 90)
    assert await spent_and_held(store, account) == (90, 0)
    assert await store.current_accounts(wall_ms()) == sorted([account.id, plain.id])
    assert (await events(store, "state"))[0]["account"] == account.id


async def test_a_chain_of_a_hundred_accounts(store: Store) -> None:
    chain = [terms(f"k{i:03d}", limit=100 + i) for i in range(100)]
    hold = await held(store, "h1", 60, *chain)
    assert len(hold.balances) == 100
    verdict = await refused(store, "h2", 141, *chain)
    assert (verdict.code, verdict.account) == (RefusalCode.EXCEEDED, 0)
    settlement = await end(store, ResolveMode.SETTLE, "h1", chain, 55)
    assert settlement.balances == ((55, 0),) * 100


async def test_only_accounts_whose_period_goes_on_are_current(store: Store) -> None:
    now_ms = wall_ms()
    old = terms("old", period=Period("p", 0, now_ms - 1))
    new = terms("new", period=Period("p", 0, now_ms + 3_600_000))
    await held(store, "h1", 1, old, new, terms("total"))
    assert await store.current_accounts(now_ms) == sorted([new.id, terms("total").id])


async def test_an_account_that_was_only_ever_refused_is_known_too(store: Store) -> None:
    """Its state is written, so that it must be found, and forgotten, like any other."""
    account = terms(limit=0)
    await refused(store, "h1", 1, account)
    assert [e["to"] for e in await events(store, "state")] == ["3"]
    assert await store.current_accounts(wall_ms()) == [account.id]


async def test_balances_come_in_the_order_asked(store: Store) -> None:
    first, second = terms("first"), terms("second")
    await held(store, "h1", 3, second)
    rows = await store.balances([second.id, "b:total:unknown", first.id])
    assert [(r.id, r.held_nano) for r in rows] == [(second.id, 3), ("b:total:unknown", 0), (first.id, 0)]
    assert await store.balances([]) == []


async def test_three_hundred_at_once_hold_no_more_than_there_is(store: Store) -> None:
    account = terms(limit=50)
    asked = [store.reserve(ask(f"h{i}", [account], fixed(1))) for i in range(300)]
    verdicts = await asyncio.gather(*asked)
    assert sum(isinstance(v, Hold) for v in verdicts) == 50
    assert await spent_and_held(store, account) == (0, 50)
    refusals = [v for v in verdicts if isinstance(v, Refusal)]
    assert {r.code for r in refusals} == {RefusalCode.HELD}


async def test_spend_from_outside_counts_against_the_budget(store: Store) -> None:
    account = terms(limit=100)
    posted = await end(store, ResolveMode.POST, "wh_1", [account], 85, basis=Basis.WEBHOOK, with_terms=True)
    assert (posted.applied, posted.delta_nano, posted.balances) == (True, 85, ((85, 0),))
    assert [(e["from"], e["to"], e["cause"]) for e in await events(store, "state")] == [("0", "1", "wh_1")]
    assert await store.current_accounts(wall_ms()) == [account.id]
    assert (await refused(store, "h1", 16, account)).code is RefusalCode.EXCEEDED


async def test_a_hold_is_one_calls(store: Store) -> None:
    """Asked again by its own call, it is the same hold; another call under its id must not send anything on it."""
    account = terms(limit=1000)
    mine = ask("h1", [account], fixed(30))
    assert await store.reserve(mine) == await store.reserve(mine)
    with pytest.raises(Conflict, match="another call's"):
        await store.reserve(replace(mine, owner="another"))
    assert await spent_and_held(store, account) == (0, 30)


async def test_who_gives_up_on_a_hold_leaves_another_calls_alone(store: Store) -> None:
    account = terms(limit=1000)
    await held(store, "h1", 30, account)
    give_up = Resolution("h1", ResolveMode.VOID, (account.id,), only_owner="another")
    assert not (await store.resolve(give_up)).applied
    assert await spent_and_held(store, account) == (0, 30)
    assert (await store.resolve(replace(give_up, only_owner="worker"))).applied
    assert await spent_and_held(store, account) == (0, 0)
    bar = Resolution("h2", ResolveMode.VOID, (account.id,), only_owner="another")
    assert (await store.resolve(bar)).applied, "what is not there yet is barred"
