"""Random lives of accounts and holds, on the memory store and on Valkey in lockstep: they must agree on everything.

Expiry is driven by leases that are over at once or never, so that the two clocks can't disagree. A failure is
printed as it was found, because shrinking one takes minutes; add `Phase.shrink` for a shorter one.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from budget.connect import StoreClient, close, connect
from budget.memory_store import MemoryBudgetStore
from budget.model import AccountTerms, Candidate, Hold, HoldStatus, NextHold, Resolution, ResolveMode
from budget.redis_store import RedisBudgetStore
from core.errors import SpendgateError
from tests.budget.builders import Store, ask, terms, wall_ms
from tests.support.stores import running_valkey

NEVER_MS = 3_600_000
KEYS = ("a", "b", "c")


def account(index: int, limit: int) -> AccountTerms:
    return terms(KEYS[index], limit=limit, hard=limit * 12 // 10, smallest=2)


# Few and round amounts, so that sums meet limits exactly, and now and then any.
small_costs = st.sampled_from([0, 1, 5, 9, 10, 20]) | st.integers(0, 40)
limits = st.sampled_from([0, 20, 50, 200, 200]) | st.integers(0, 90)
marks = st.sampled_from(["111", "111", "100", "1--", "01-"]) | st.text("-01", min_size=3, max_size=3)
candidates = st.builds(
    lambda base, pico, tokens, fewer, watched: Candidate("m", base, pico, tokens, tokens - fewer, watched),
    st.sampled_from([0, 5, 10]) | st.integers(0, 20),
    st.sampled_from([0, 0, 1, 333, 1000, 1000, 2500]),
    st.sampled_from([5, 10, 20]) | st.integers(5, 30),
    st.sampled_from([0, 3, 5, -3]),
    marks,
)


class Lockstep(RuleBasedStateMachine):
    """Two stores, one life."""

    ids = Bundle("ids")

    def __init__(self, runner: asyncio.Runner, client: StoreClient) -> None:
        super().__init__()
        self.runner = runner
        self.memory = MemoryBudgetStore(wall_ms)
        self.valkey = RedisBudgetStore(client, namespace=uuid.uuid4().hex)
        runner.run(self.valkey.found("ep_1"))
        self.accounts = [account(i, 200) for i in range(len(KEYS))]
        self.known: list[str] = []

    def both(self, call: Callable[[Store], Awaitable[Any]]) -> Any:
        """The answer, or the class of the error, that both stores give."""

        async def one(store: Store) -> Any:
            try:
                return await call(store)
            except SpendgateError as error:
                return type(error)

        async def two() -> tuple[Any, Any]:
            return await one(self.memory), await one(self.valkey)

        expected, got = self.runner.run(two())
        assert got == expected
        return got

    def new_id(self) -> str:
        self.known.append(f"h{len(self.known)}")
        return self.known[-1]

    @rule(index=st.integers(0, 2), limit=limits)
    def change_a_limit(self, index: int, limit: int) -> None:
        self.accounts[index] = account(index, limit)

    @rule(
        target=ids,
        options=st.lists(candidates, min_size=1, max_size=3),
        lease_ms=st.sampled_from([0, NEVER_MS]),
    )
    def reserve_anew(self, options: list[Candidate], lease_ms: int) -> str:
        self._reserve(hold_id := self.new_id(), options, lease_ms)
        return hold_id

    @rule(hold_id=ids, options=st.lists(candidates, max_size=3))
    def reserve_again(self, hold_id: str, options: list[Candidate]) -> None:
        self._reserve(hold_id, options, NEVER_MS)

    def _reserve(self, hold_id: str, options: list[Candidate], lease_ms: int) -> None:
        fresh = hold_id not in self._open()
        request = ask(hold_id, self.accounts, *options, lease_ms=lease_ms)
        verdict = self.both(lambda store: store.reserve(request))
        if isinstance(verdict, Hold):
            assert self.both(lambda store: store.reserve(request)) == verdict
        if isinstance(verdict, Hold) and fresh:
            for terms_now, balance, mark in zip(
                self.accounts, verdict.balances, options[verdict.candidate].watched, strict=True
            ):
                assert mark == "-" or balance.spent_nano + balance.held_nano <= terms_now.hard_nano

    @rule(
        target=ids,
        hold_id=ids,
        open_index=st.none() | st.integers(0, 9),
        mode=st.sampled_from([*ResolveMode, ResolveMode.SETTLE]),
        cost=small_costs,
        next_amount=st.none() | small_costs,
        order=st.permutations(range(len(KEYS))),
        with_terms=st.booleans(),
    )
    def resolve(
        self,
        hold_id: str,
        open_index: int | None,
        mode: ResolveMode,
        cost: int,
        next_amount: int | None,
        order: list[int],
        with_terms: bool,
    ) -> Any:
        still_open = sorted(self._open())
        if open_index is not None and still_open:  # most ids have ended: without this, little would happen
            hold_id = still_open[open_index % len(still_open)]
        chain = tuple(self.accounts[i] for i in order)
        following = None if next_amount is None else NextHold(self.new_id(), next_amount)
        resolution = Resolution(
            hold_id,
            mode,
            tuple(a.id for a in chain),
            cost,
            next_hold=following,
            lease_ms=NEVER_MS,
            terms=chain if with_terms and mode is ResolveMode.POST else (),
        )
        self._resolve(resolution)
        return following.id if following else multiple()

    def _resolve(self, resolution: Resolution) -> Any:
        settlement = self.both(lambda store: store.resolve(resolution))
        again = self.both(lambda store: store.resolve(resolution))
        assert isinstance(settlement, type) or (not again.applied and again.balances == settlement.balances)
        return settlement

    @rule(hold_id=ids, lease_ms=st.sampled_from([0, NEVER_MS]))
    def extend(self, hold_id: str, lease_ms: int) -> None:
        self.both(lambda store: store.extend([hold_id], lease_ms))

    @rule()
    def sweep(self) -> None:
        async def due(store: Store) -> dict[str, tuple[str, ...]]:
            return {d.id: d.account_ids for d in await store.due(1000)}

        for hold_id in sorted(self.both(due)):
            resolution = Resolution(hold_id, ResolveMode.EXPIRE, tuple(a.id for a in self.accounts))
            assert self._resolve(resolution).applied

    @invariant()
    def balances_are_a_fold_of_the_events_and_of_the_open_holds(self) -> None:
        async def written(store: Store) -> list[dict[str, str]]:
            return [{k: v for k, v in e.items() if k != "at_ms"} for _, e in await store.events(count=10_000)]

        spent: Counter[str] = Counter()
        state: Counter[str] = Counter()
        for event in self.both(written):
            if event["type"] == "state":
                assert event["from"] == str(state[event["account"]])
                assert event["to"] != event["from"]
                state[event["account"]] = int(event["to"])
                continue
            if event["type"] in ("hold", "terms"):
                continue
            for account_id in event["accounts"].split("\n"):
                spent[account_id] += int(event["delta_nano"])
        held: Counter[str] = Counter()
        for found in self._open().values():
            held.update(dict.fromkeys(found.account_ids, found.amount_nano))
        for row in self.both(lambda store: store.balances([a.id for a in self.accounts])):
            assert (row.spent_nano, row.held_nano) == (spent[row.id], held[row.id])
            assert min(row.spent_nano, row.held_nano) >= 0
        self.both(lambda store: store.current_accounts(0))

    def _open(self) -> dict[str, Any]:
        async def all_found(store: Store) -> list[Any]:
            return [await store.find(hold_id) for hold_id in self.known]

        found = dict(zip(self.known, self.both(all_found), strict=True))
        return {i: f for i, f in found.items() if f and f.status is HoldStatus.HELD}


@pytest.fixture
def lockstep() -> Iterator[Callable[[], Lockstep]]:
    with running_valkey() as server, asyncio.Runner() as runner:
        client = connect(server.url)
        yield lambda: Lockstep(runner, client)
        runner.run(close(client))


def test_the_scripts_do_what_the_specification_does(lockstep: Callable[[], Lockstep]) -> None:
    run_state_machine_as_test(
        lockstep,  # type: ignore[arg-type] # any callable that makes a machine will do
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            print_blob=True,
            phases=(Phase.reuse, Phase.generate),
        ),
    )
