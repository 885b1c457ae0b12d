"""The store's truth, watched: every verb that reaches the memory store is checked against what was promised.

The rules are said again here, on purpose, in other words than in the code under test.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from budget.memory_store import MemoryBudgetStore
from budget.model import (
    NOT_WHEN_DEGRADED,
    UNAFFECTED,
    BudgetState,
    Hold,
    HoldStatus,
    ReserveRequest,
    Resolution,
    ResolveMode,
    Settlement,
)
from budget.ports import MAX_CLOCK_SKEW_MS
from core.errors import SpendgateError
from gateway.sizes import BEYOND
from tests.simulation.loop import run_now

MONEY = frozenset({"settle", "void", "expire", "true_up", "post"})


class Broken(AssertionError):
    """A promise that was not kept: which, and how."""


def insist(kept: bool, promise: str, *facts: object) -> None:
    """Raises `Broken` unless it is so."""
    if not kept:
        raise Broken(f"{promise}: " + ", ".join(str(f) for f in facts))


@dataclass(slots=True)
class Books:
    """The memory store and what is known of it from the outside.

    most_nano: per account, the largest hard cap that a hold was granted under. excess_nano: what was posted to it
        beyond what was held, each with its event.
    applied: commands that had an effect; none may have another.
    """

    memory: MemoryBudgetStore
    spent_nano: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    excess_nano: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    most_nano: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    states: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    released: set[str] = field(default_factory=set)
    applied: list[tuple[str, Any]] = field(default_factory=list)
    read: int = 0
    broken: list[Broken] = field(default_factory=list)

    def insist(self, kept: bool, promise: str, *facts: object) -> None:
        """As `insist`, where the code under test might swallow the exception."""
        if not kept:
            self.broken.append(Broken(f"{promise}: " + ", ".join(str(f) for f in facts)))
            raise self.broken[-1]

    def do(self, verb: str, args: tuple[Any, ...]) -> Any:
        """One verb, at once, and the checks that belong to it.

        Raises:
            SpendgateError: what the store answers.
            Broken: a promise was not kept.
        """
        if verb == "reserve":
            return self._reserve(args[0])
        if verb == "resolve":
            return self._resolve(args[0])
        return run_now(getattr(self.memory, verb)(*args))

    def _reserve(self, request: ReserveRequest) -> Any:
        memory = self.memory
        known = request.hold_id in memory.holds
        before = {t.id: memory.accounts[t.id].spent_nano for t in request.accounts if t.id in memory.accounts}
        try:
            verdict = run_now(memory.reserve(request))
        except SpendgateError:
            insist(known == (request.hold_id in memory.holds), "an error holds nothing", request.hold_id)
            raise
        if isinstance(verdict, Hold) and not known:
            self._admitted(request, verdict, before)
            self.applied.append(("reserve", request))
        elif not known:
            insist(request.hold_id not in memory.holds, "a refusal holds nothing", request.hold_id)
        self.check()
        return verdict

    def _admitted(self, request: ReserveRequest, hold: Hold, before: dict[str, int]) -> None:
        memory, candidate = self.memory, request.candidates[hold.candidate]
        now_ms = memory.now_ms()
        insist(request.version == memory.version, "only under the newest budgets", hold)
        insist(abs(now_ms - request.now_ms) <= MAX_CLOCK_SKEW_MS, "no clock that is off", hold)
        insist(candidate.min_tokens <= hold.tokens <= candidate.tokens, "the tokens are as asked", hold)
        insist(
            hold.amount_nano * 1000 >= candidate.base_nano * 1000 + hold.tokens * candidate.out_pico, "ceiling", hold
        )
        watched = 0
        for terms, mark in zip(request.accounts, candidate.watched, strict=True):
            if mark == UNAFFECTED:
                continue
            watched += 1
            spent_nano = before.get(terms.id, 0)
            insist(terms.id in memory.holds[hold.id].account_ids, "held on every account", terms, hold)
            row = memory.accounts[terms.id]
            insist(row.spent_nano + row.held_nano <= terms.hard_nano, "spent + held <= hard cap", terms, row)
            insist(spent_nano < terms.stop_at_nano, "Stopped admits nothing", terms, spent_nano)
            if mark == NOT_WHEN_DEGRADED:
                insist(spent_nano <= terms.limit_nano, "Degraded is downgraded", terms, spent_nano)
            start_ms, end_ms = terms.period.start_ms, terms.period.end_ms
            fits = start_ms - MAX_CLOCK_SKEW_MS <= now_ms and (end_ms is None or now_ms < end_ms + MAX_CLOCK_SKEW_MS)
            insist(fits, "no clock jumps a period", terms.period, now_ms)
            self.most_nano[terms.id] = max(self.most_nano[terms.id], terms.hard_nano)
        insist(watched > 0, "no budget, no call", request)

    def _resolve(self, resolution: Resolution) -> Settlement:
        settlement: Settlement = run_now(self.memory.resolve(resolution))
        if settlement.applied:
            self.applied.append(("resolve", resolution))
        else:
            insist(settlement.delta_nano == 0, "no effect is no effect", resolution)
        self.check()
        return settlement

    def check(self) -> None:
        """Balances are what the events and the open holds say."""
        memory = self.memory
        for event in memory.log[self.read :]:
            if event["type"] in MONEY:
                self._money(event)
            elif event["type"] == "state":
                self._state(event)
        self.read = len(memory.log)
        held: dict[str, int] = defaultdict(int)
        for hold in memory.holds.values():
            if hold.status is HoldStatus.HELD:
                for account in hold.account_ids:
                    held[account] += hold.amount_nano
        for account_id, row in memory.accounts.items():
            insist(row.held_nano == held[account_id], "held is the sum of the open holds", account_id, row, held)
            insist(row.spent_nano == self.spent_nano[account_id], "spent is the sum of the events", account_id, row)
            most_nano = self.most_nano[account_id] + self.excess_nano[account_id]
            insist(row.spent_nano + row.held_nano <= most_nano, "never above the cap", account_id, row, most_nano)

    def _money(self, event: dict[str, str]) -> None:
        mode, before, hold_id = event["type"], event["before"], event["hold"]
        delta_nano, cost_nano = int(event["delta_nano"]), int(event["cost_nano"])
        if before == "held":
            insist(hold_id not in self.released, "a hold is released once", event)
            self.released.add(hold_id)
        elif mode == "settle":
            insist(before == "expired", "an attempt ends once", event)
        elif mode in ("void", "true_up"):
            insist(before in ("expired", "settled"), "an attempt ends once", event)
        else:
            insist(mode == "post" and before == "none", "no event without a reserve", event)
        insist(cost_nano >= 0, "no negative cost", event)
        if event["basis"] == "estimated":
            within = cost_nano <= int(event["held_nano"]) or BEYOND in event["detail"]
            insist(within, "an estimate is within its hold, unless more came than was held for", event)
        for account_id in event["accounts"].split("\n"):
            self.spent_nano[account_id] += delta_nano
            if before != "held":
                self.excess_nano[account_id] += max(0, delta_nano)
            else:
                self.excess_nano[account_id] += max(0, cost_nano - int(event["held_nano"]))
        if before == "held":
            overage_nano = max(0, cost_nano - int(event["held_nano"]))
            insist(int(event["overage_nano"]) == overage_nano, "an overage is recorded", event)

    def _state(self, event: dict[str, str]) -> None:
        account_id = event["account"]
        insist(event["from"] != event["to"], "a state is entered once", event)
        insist(int(event["from"]) == self.states[account_id], "a state is left once", event)
        self.states[account_id] = int(event["to"])

    def check_states(self) -> None:
        """The state of each account is what its spend and its newest terms say."""
        for account_id, row in self.memory.accounts.items():
            if row.terms is None:
                continue
            spent_nano, terms = row.spent_nano, row.terms
            state = BudgetState.ACTIVE
            if spent_nano >= terms.stop_at_nano:
                state = BudgetState.STOPPED
            elif spent_nano > terms.limit_nano:
                state = BudgetState.DEGRADED
            elif spent_nano > terms.soft_nano:
                state = BudgetState.WARNED
            insist(self.states[account_id] == state, "the state is that of the spend", account_id, row)

    def replay(self, order: list[int]) -> None:
        """Every command that had an effect comes once more, in this order, and has none."""
        memory = self.memory
        balances = {i: (a.spent_nano, a.held_nano) for i, a in memory.accounts.items()}
        events = len(memory.log)
        for index in order:
            verb, command = self.applied[index]
            try:
                run_now(getattr(memory, verb)(command))
            except SpendgateError:
                continue
        after = {i: (a.spent_nano, a.held_nano) for i, a in memory.accounts.items()}
        insist(after == balances and len(memory.log) == events, "a replay changes nothing", memory.log[events:])

    def posted_nano(self) -> dict[str, int]:
        """What was posted for each hold, all its events together."""
        posted: dict[str, int] = defaultdict(int)
        for event in self.memory.log:
            if event["type"] in MONEY:
                posted[event["hold"]] += int(event["delta_nano"])
        return posted

    def ended_by(self, mode: ResolveMode) -> list[dict[str, str]]:
        """Events of one kind."""
        return [e for e in self.memory.log if e["type"] == mode.value]
