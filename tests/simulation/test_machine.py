"""Any order of everything that can happen to the budgets of two workers: the memory store is the subject, watched by
`books.py`; between it and the workers requests and replies get lost, or come late.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from budget.book import BudgetBook
from budget.codec import BUDGET_KIND, dump_budget
from budget.memory_store import MemoryBudgetStore
from budget.model import AccountTerms, Basis, Budget, Candidate, HoldStatus, NextHold, Resolution, ResolveMode
from budget.service import Admission, BudgetService, Plan
from budget.verify import verify
from core.errors import InvalidInput, SpendgateError, StoreUnavailable
from core.keys import KeyRing
from core.period import period_at
from core.scope import Scope
from spendgate.snapshot import Snapshot
from tests.simulation.books import Books
from tests.simulation.catalog import BOT, PRICES, TEAM
from tests.simulation.climate import changed
from tests.simulation.loop import run_now

LEASE_MS = 30_000
#: Shortly before the end of a day, month, year; of 28 February in a leap year; of days of 23 and 25 hours in Berlin.
STARTS = [
    int(datetime(*when, tzinfo=UTC).timestamp()) * 1000
    for when in (
        (2026, 12, 31, 23, 59, 50),
        (2028, 2, 28, 23, 59, 50),
        (2028, 2, 29, 23, 59, 50),
        (2027, 3, 28, 0, 59, 50),
        (2027, 10, 31, 22, 59, 50),
    )
]
CADENCES = ("total", "daily", "weekly", "monthly", "quarterly", "yearly", "every:30s")
ZONES = ("UTC", "Europe/Berlin", "America/Sao_Paulo", "Pacific/Auckland")
CHAINS: tuple[tuple[Scope, ...], ...] = ((BOT,), (BOT, TEAM), (TEAM,))

amounts = st.sampled_from([0, 1, 5, 10, 20, 40]) | st.integers(0, 60)
faults = st.sampled_from(["", "", "", "request", "reply", "late"])
kinds = st.tuples(st.sampled_from(CADENCES), st.sampled_from(ZONES))
who = st.integers(0, 1)
which = st.integers(0, 30)
candidates = st.builds(
    lambda base, pico, tokens, fewer, marks: (base, pico, tokens, tokens - min(fewer, tokens), marks),
    amounts,
    st.sampled_from([0, 1, 333, 1000, 2500]),
    st.integers(1, 30),
    st.sampled_from([0, 0, 5, 29]),
    st.sampled_from(["11", "11", "10", "00", "1-", "-1"]),
)
options = st.lists(candidates, min_size=1, max_size=2)


@dataclass
class Shaky:
    """The store as a worker has it. faults: of the next calls that change something, one entry per call."""

    books: Books
    faults: list[str] = field(default_factory=list)
    on_their_way: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    @property
    def epoch(self) -> str | None:
        return self.books.memory.epoch

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        async def call(*args: Any, **_: Any) -> Any:
            fault = self.faults.pop(0) if self.faults and verb in ("reserve", "resolve") else ""
            if fault == "late":
                self.on_their_way.append((verb, args))
            if fault in ("late", "request"):
                raise StoreUnavailable("lost")
            answer = self.books.do(verb, args)
            if fault == "reply":
                raise StoreUnavailable("the answer is lost")
            return answer

        return call


class Clock:
    """The time of the store, and of a worker that is off it."""

    def __init__(self, store: "Clock | None" = None) -> None:
        self.store = store
        self.at_ms = 0

    def now_ms(self) -> int:
        return self.at_ms + (self.store.now_ms() if self.store else 0)

    def monotonic_s(self) -> float:
        return self.now_ms() / 1000


class CountedIds:
    def __init__(self) -> None:
        self.made = 0

    def new(self, prefix: str) -> str:
        self.made += 1
        return f"{prefix}_{self.made}"


class Life(RuleBasedStateMachine):
    """The life of some budgets. open: admissions that a worker still has to end. decided: how a hold was ended."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock, self.ids = Clock(), CountedIds()
        self.memory = MemoryBudgetStore(self.clock.now_ms)
        self.books = Books(self.memory)
        self.budgets: dict[str, Budget] = {}
        self.workers: list[BudgetService] = []
        self.lines: list[Shaky] = []
        self.open: list[tuple[BudgetService, Admission]] = []
        self.ended: list[str] = []
        self.decided: dict[str, int] = {}
        self.accounts_of: dict[str, tuple[str, ...]] = {}

    @initialize(start=st.sampled_from(STARTS), kinds=st.tuples(kinds, kinds))
    def begin(self, start: int, kinds: tuple[tuple[str, str], tuple[str, str]]) -> None:
        self.clock.at_ms = start
        for name in ("w0", "w1"):
            line, book = Shaky(self.books), BudgetBook(smallest_call_nano=2)
            snapshot = Snapshot(line, book, KeyRing(), PRICES)
            self.lines.append(line)
            clock = Clock(self.clock)
            self.workers.append(BudgetService(line, book, clock, self.ids, snapshot.refresh, name, lease_ms=LEASE_MS))
        for (budget_id, scope), (cadence, zone) in zip((("b", BOT), ("t", TEAM)), kinds, strict=True):
            self._put(Budget(budget_id, scope, 100, cadence=cadence, zone=zone))

    def _put(self, budget: Budget) -> None:
        self.budgets[budget.id] = budget
        run_now(self.memory.put(BUDGET_KIND, budget.id, dump_budget(budget)))

    async def _refresh(self, worker: BudgetService) -> None:
        await worker.refresh()

    # What operators and clocks do

    @rule(budget_id=st.sampled_from(["b", "t"]), seed=st.integers(0, 999))
    def an_operator_changes_a_budget(self, budget_id: str, seed: int) -> None:
        before = {i: (a.spent_nano, a.held_nano) for i, a in self.memory.accounts.items()}
        self._put(changed(self.budgets[budget_id], Random(seed), self.clock.at_ms))
        assert before == {i: (a.spent_nano, a.held_nano) for i, a in self.memory.accounts.items()}, "history stays"

    @rule(budget_id=st.sampled_from(["b", "t"]))
    def an_operator_deletes_a_budget_and_another_takes_it_back(self, budget_id: str) -> None:
        run_now(self.memory.put(BUDGET_KIND, budget_id, None))
        for worker in self.workers:
            run_now(self._refresh(worker))
            assert not [b for b in worker.book.all() if b.id == budget_id]
        self._put(replace(self.budgets[budget_id], paused=False))

    @rule(seconds=st.sampled_from([1, 5, 10, 31, 3_600, 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.clock.at_ms += seconds * 1000

    @rule(budget_id=st.sampled_from(["b", "t"]), off_ms=st.sampled_from([-1, 0, 4_999]))
    def a_period_ends(self, budget_id: str, off_ms: int) -> None:
        budget = self.budgets[budget_id]
        end_ms = period_at(budget.cadence, budget.zone, self.clock.at_ms).end_ms
        if end_ms is not None:
            self.clock.at_ms = max(self.clock.at_ms, end_ms + off_ms)

    @rule(who=who, off_ms=st.sampled_from([0, 0, 4_999, -4_999, 5_001, -3_600_000]))
    def a_clock_is_set(self, who: int, off_ms: int) -> None:
        clock = self.workers[who].clock
        assert isinstance(clock, Clock)
        clock.at_ms = off_ms

    def end(self, worker: BudgetService, begin: Callable[[], None]) -> None:
        """Begin an end of a hold, and see it through."""

        async def see_through() -> None:
            begin()
            await worker.all_ended()

        self.loop.run_until_complete(see_through())

    # What workers do

    @rule(who=who, chain=st.sampled_from(CHAINS), options=options, lost=st.lists(faults, max_size=2))
    def a_worker_reserves(self, who: int, chain: tuple[Scope, ...], options: list[Any], lost: list[str]) -> None:
        worker = self.workers[who]
        self.lines[who].faults = list(lost)

        def plan(now_ms: int) -> Plan:
            accounts: tuple[AccountTerms, ...] = worker.book.accounts(chain, now_ms)
            rows = [(b, p, t, f, m.ljust(len(accounts), "1")[: len(accounts)]) for b, p, t, f, m in options]
            return Plan(accounts, tuple(a.id for a in accounts), tuple(Candidate("m", *row) for row in rows))

        hold_id = self.ids.new("hld")
        try:
            admission = run_now(worker.reserve(plan, hold_id=hold_id))
        except SpendgateError:
            self.decided[hold_id] = 0
            return
        if isinstance(admission, Admission):
            self.open.append((worker, admission))
            self.accounts_of[hold_id] = admission.account_ids

    @precondition(lambda self: self.open)
    @rule(which=which, cost=amounts, void=st.booleans(), lost=faults)
    def a_call_ends(self, which: int, cost: int, void: bool, lost: str) -> None:
        worker, admission = self._take(which, lost)
        if void:
            self.end(worker, lambda: worker.void(admission, b"{}"))
        else:
            self.end(worker, lambda: worker.settle(admission, cost, Basis.EXACT, b"{}"))
        self._decide(admission.hold.id, 0 if void else cost)

    @precondition(lambda self: self.open)
    @rule(which=which, share=st.integers(0, 100), lost=faults)
    def a_call_is_tried_again(self, which: int, share: int, lost: str) -> None:
        worker, admission = self._take(which, lost)
        hold, next_id = admission.hold, self.ids.new("hld")
        cost = hold.amount_nano * share // 100
        following = NextHold(next_id, hold.amount_nano - cost)
        self._decide(hold.id, cost)
        try:
            taken = run_now(worker.hand_over(admission, following, cost_nano=cost, basis=Basis.EXACT, detail=b"{}"))
        except StoreUnavailable:
            self.decided[next_id] = 0
            return
        if taken:
            self.accounts_of[next_id] = admission.account_ids
            self.open.append(
                (worker, replace(admission, hold=replace(hold, id=next_id, amount_nano=following.amount_nano)))
            )

    @precondition(lambda self: self.open)
    @rule(which=which)
    def a_worker_dies_in_a_call(self, which: int) -> None:
        worker, admission = self._take(which, "")
        worker.open_holds.pop(admission.hold.id, None)

    def _take(self, which: int, lost: str) -> tuple[BudgetService, Admission]:
        worker, admission = self.open.pop(which % len(self.open))
        self.lines[self.workers.index(worker)].faults = [lost]
        self.ended.append(admission.hold.id)
        return worker, admission

    def _decide(self, hold_id: str, cost: int) -> None:
        self.decided[hold_id] = cost

    @rule(who=who, lost=st.lists(faults, max_size=3))
    def a_worker_goes_its_round(self, who: int, lost: list[str]) -> None:
        worker = self.workers[who]
        self.lines[who].faults = list(lost)
        with contextlib.suppress(StoreUnavailable):
            run_now(worker.renew())
            run_now(worker.flush())
            run_now(worker.sweep())
            assert not run_now(self.memory.due(100))

    @rule(who=who)
    def what_is_late_arrives(self, who: int) -> None:
        while self.lines[who].on_their_way:
            with contextlib.suppress(SpendgateError):  # nobody hears it
                self.books.do(*self.lines[who].on_their_way.pop(0))

    @rule(who=who, name=st.integers(0, 3), cost=amounts)
    def somebody_tells_of_a_foreign_cost(self, who: int, name: int, cost: int) -> None:
        self.lines[who].faults = []
        run_now(self._refresh(self.workers[who]))
        if self.workers[who].book.accounts((BOT, TEAM), self.workers[who].clock.now_ms()):
            run_now(self.workers[who].post(f"ext_{name}", (BOT, TEAM), cost, Basis.WEBHOOK, b"{}"))

    @precondition(lambda self: self.ended)
    @rule(who=who, which=which, cost=amounts)
    def somebody_knows_a_cost_better(self, who: int, which: int, cost: int) -> None:
        self.lines[who].faults = []
        hold_id = self.ended[which % len(self.ended)]
        settlement = run_now(self.workers[who].true_up(hold_id, cost, b"{}"))
        again = run_now(self.workers[who].true_up(hold_id, cost + 1, b"{}"))
        assert again is None or not again.applied or not settlement.applied

    @precondition(lambda self: self.books.applied)
    @rule(seed=st.integers(0, 99))
    def everything_comes_once_more(self, seed: int) -> None:
        order = list(range(len(self.books.applied)))
        Random(seed).shuffle(order)
        self.books.replay(order)

    @precondition(lambda self: self.open)
    @rule(
        which=which,
        cost=st.sampled_from([-1, -(2**60)]),
        mode=st.sampled_from([ResolveMode.SETTLE, ResolveMode.TRUE_UP]),
    )
    def a_cost_that_can_not_be_is_refused(self, which: int, cost: int, mode: ResolveMode) -> None:
        _, admission = self.open[which % len(self.open)]
        try:
            self.books.do("resolve", (Resolution(admission.hold.id, mode, admission.account_ids, cost),))
        except InvalidInput:
            return
        raise AssertionError("it was taken")

    # What is always so, and what is so in the end

    @invariant()
    def the_books_are_right(self) -> None:
        self.books.check()
        self.books.check_states()
        assert not run_now(verify(self.memory)).drift
        for event in self.memory.log[-3:]:
            if event["type"] in ("settle", "void", "expire") and event["before"] == "held":
                expected = self.accounts_of.get(event["hold"])
                assert expected is None or tuple(event["accounts"].split("\n")) == expected, "charged where it was held"

    def teardown(self) -> None:
        for who in range(len(self.workers)):
            self.what_is_late_arrives(who)
        for worker, admission in self.open:
            self.end(worker, partial(worker.void, admission, b"{}"))
        self.loop.close()
        self.clock.at_ms += LEASE_MS
        for who in range(len(self.workers)):
            self.a_worker_goes_its_round(who, [])
        assert not run_now(self.memory.open_holds())
        for hold_id, cost in self.decided.items():
            hold = self.memory.holds.get(hold_id)
            if hold is not None:
                assert hold.status in (HoldStatus.SETTLED, HoldStatus.VOIDED), hold_id
                assert hold.trued or hold.cost_nano == cost, (hold_id, hold)
        self.books.check()


Life.TestCase.settings = settings(
    max_examples=400,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no failure
    phases=(Phase.reuse, Phase.generate),  # shrinking takes minutes; add Phase.shrink for a shorter story
)
TestLife = Life.TestCase
