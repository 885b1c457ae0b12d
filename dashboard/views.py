"""What the pages show, gathered from the live accounts and the ledger. No HTML, no HTTP.

Failure policy: the live accounts are what a page is for; without them it is an error. Without the ledger it shows what
there is, and says what is missing and why.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from budget.model import BudgetState
from core.errors import NotFound
from core.scope import Scope
from dashboard.deps import Deps
from dashboard.formats import money, share
from dashboard.history import Burn, History, burns_of, history_of
from dashboard.ranges import Range
from dashboard.spend import AccountSpend, current_spend, scope_spend
from ledger.errors import LedgerUnavailable
from ledger.model import CallRow
from ledger.ports import Filter, LedgerReader, StateChange

#: How many accounts a page shows at first, and at most.
FEW, MOST = 12, 200
_CHANGES = 20


@dataclass(slots=True)
class Overview:
    """The first page. rows: accounts, the most loaded first. burns: how the periods of the first of them go; burn: of
    the first that ends.
    """

    rows: list[AccountSpend]
    states: dict[BudgetState, int]
    history: History
    burns: dict[str, Burn]
    burn: Burn | None

    def grows(self, shown: int) -> int:
        """From what percent of its limit an account belongs among those that are shown: it may have come since."""
        if len(self.rows) <= shown:
            return 0
        return min(share(row.spent_nano, row.terms.limit_nano) for row in self.rows[:shown]) + 1


@dataclass(slots=True)
class ScopeView:
    """The page of a scope. chain: other scopes that its calls were also charged to."""

    scope: Scope
    rows: list[AccountSpend]
    history: History
    burns: dict[str, Burn]
    burn: Burn | None
    chain: list[Scope]


@dataclass(frozen=True, slots=True)
class StoodThen:
    """How an account stood when a call was decided on: with its hold if it was admitted, as it was if not."""

    spent_nano: int
    held_nano: int
    state: BudgetState
    limit_nano: int
    hard_nano: int


@dataclass(frozen=True, slots=True)
class AccountThen:
    """An account at the time of an event.

    amount_nano: held, or posted, by it; None: the event is a refusal. spent_nano: after it; stood: at the decision;
    None: it does not say. decided: it is the one that refused.
    """

    account_id: str
    amount_nano: int | None
    spent_nano: int | None
    stood: StoodThen | None = None
    decided: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """An event of a request."""

    at_ms: int
    kind: str
    hold_id: str
    accounts: tuple[AccountThen, ...]
    why: str | None


@dataclass(slots=True)
class Explained:
    """What became of a request, and which accounts decided."""

    request_id: str
    calls: list[CallRow]
    steps: list[Step]

    @property
    def decisions(self) -> list[Step]:
        """Those that tell how accounts stood when it was decided; an end tells of its hold, which was made before."""
        held_ms = {step.hold_id: step.at_ms for step in self.steps if step.kind == "hold"}
        told = [step for step in self.steps if step.accounts and step.accounts[0].stood]
        return [replace(step, at_ms=held_ms.get(step.hold_id, step.at_ms)) for step in told]

    @property
    def postings(self) -> list[Step]:
        """Those that moved money."""
        return [step for step in self.steps if step.kind != "refusal"]


async def overview(deps: Deps, shown: Range) -> Overview:
    """The first page.

    Raises:
        StoreUnavailable: the live accounts can't be read.
    """
    now_ms = deps.clock.now_ms()
    history = asyncio.create_task(history_of(deps.ledger, shown, (), shown.by or "agent"))
    try:
        await deps.refresh()
        rows = [r for r in await current_spend(deps.store, deps.book, now_ms) if r.in_force]
        rows.sort(key=_load, reverse=True)
        states = {state: sum(r.state is state for r in rows) for state in BudgetState}
        burns = await burns_of(deps, rows[:FEW], now_ms)
        return Overview(rows, states, await history, burns, next(iter(burns.values()), None))
    finally:
        history.cancel()


async def scope_view(deps: Deps, scope: Scope, shown: Range) -> ScopeView:
    """The page of a scope.

    Raises:
        NotFound: no budget watches it and the ledger does not know it.
        StoreUnavailable: the live accounts can't be read.
    """
    await deps.refresh()
    now_ms = deps.clock.now_ms()
    rows = await scope_spend(deps.store, deps.book, [scope], now_ms)
    rows.sort(key=_load, reverse=True)
    history, burns, changes = await asyncio.gather(
        history_of(deps.ledger, shown, (Filter(scope.type, (scope.key,)),), shown.by or "model"),
        burns_of(deps, rows[:FEW], now_ms),
        _changes(deps.ledger, shown, [row.terms.id for row in rows]),
    )
    calls = history.calls or []
    if not (rows or calls or history.by_group or history.missing or shown.filters):
        raise NotFound(f"no budget watches {scope}, and it has spent nothing in the last {shown.label}")
    history.changes = changes
    chain = {name for call in calls for name in call.scopes} - {str(scope)}
    related = [Scope(*name.split(":", 1)) for name in sorted(chain)]
    return ScopeView(scope, rows, history, burns, next(iter(burns.values()), None), related)


async def _changes(ledger: LedgerReader | None, shown: Range, account_ids: Sequence[str]) -> list[StateChange]:
    if ledger is None or not account_ids:
        return []
    try:
        return await ledger.state_changes(shown.interval, account_ids, _CHANGES)
    except LedgerUnavailable:  # the history says so
        return []


async def explained(ledger: LedgerReader | None, request_id: str) -> Explained:
    """What became of a request.

    Raises:
        NotFound: the ledger does not know it (yet: it is a moment behind).
        LedgerUnavailable: it can't be asked, or is switched off.
    """
    if ledger is None:
        raise LedgerUnavailable("the ledger is switched off (SPENDGATE_LEDGER)")
    calls, events = await ledger.of_request(request_id)
    if not calls and not events:
        raise NotFound(f"the ledger knows no request {request_id}; the newest appear after a second or two")
    steps = [_step(event.at_ms, orjson.loads(event.fields)) for event in events]
    steps += [_refusal(call) for call in calls if call.refusal]
    return Explained(request_id, calls, sorted(steps, key=lambda step: step.at_ms))


def _step(at_ms: int, fields: dict[str, str]) -> Step:
    amount = int(fields.get("delta_nano") or fields.get("amount_nano") or 0)
    accounts = fields.get("accounts", "").split("\n")
    spent = [int(text) for text in fields.get("spent_after", "").split()]
    known = len(spent) == len(accounts)
    detail: dict[str, Any] = orjson.loads(fields.get("detail") or "{}")
    stood = [_stood(numbers) for numbers in detail.get("balances", ())]
    told = len(stood) == len(accounts)
    then = tuple(
        AccountThen(a, amount, spent[n] if known else None, stood[n] if told else None)
        for n, a in enumerate(accounts)
        if a
    )
    return Step(at_ms, fields["type"], fields.get("hold", ""), then, detail.get("why"))


def _refusal(call: CallRow) -> Step:
    then = tuple(
        AccountThen(account_id, None, None, _stood(numbers), account_id == call.account_id)
        for account_id, *numbers in orjson.loads(call.balances or "[]")
    )
    return Step(call.at_ms, "refusal", call.hold_id, then, call.refusal)


def _stood(numbers: Sequence[int]) -> StoodThen:
    spent_nano, held_nano, state, limit_nano, hard_nano = numbers
    return StoodThen(spent_nano, held_nano, BudgetState(state), limit_nano, hard_nano)


def fullest_of(rows: Sequence[AccountSpend]) -> dict[str, tuple[AccountSpend, int]]:
    """Of each budget by id, the most loaded account that is in force, and how many there are."""
    found: dict[str, tuple[AccountSpend, int]] = {}
    for row in rows:
        if row.in_force:
            most, count = found.get(row.terms.budget.id, (row, 0))
            found[row.terms.budget.id] = max(most, row, key=_load), count + 1
    return found


def told_refusal(call: CallRow) -> str:
    """Why a call was refused, with the numbers of the account that decided, if it is known."""
    reason = (call.refusal or "").replace("_", " ")
    if not call.account_id:
        return reason
    budget = call.account_id.partition(":")[0]
    for account_id, *numbers in orjson.loads(call.balances or "[]"):
        if account_id == call.account_id:
            then = _stood(numbers)
            held = f" and {money(then.held_nano)} in flight" if then.held_nano else ""
            spent = f"{money(then.spent_nano)} of {money(then.hard_nano)} spent{held}"
            return f"{budget}: {spent}, {money(call.saved_nano)} needed"
    return f"{reason}: {budget}"


def _load(row: AccountSpend) -> tuple[int, float]:
    return row.state, (row.spent_nano + row.held_nano) / (row.terms.limit_nano or 1)
