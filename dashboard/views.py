"""What the pages show, gathered from the live accounts and the ledger. No HTML, no HTTP.

Failure policy: the live accounts are what a page is for; without them it is an error. Without the ledger it shows what
there is, and says what is missing and why.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson

from budget.model import BudgetState
from core.errors import NotFound
from core.scope import Scope
from dashboard.deps import Deps
from dashboard.formats import nano_of
from dashboard.ranges import Range
from dashboard.spend import AccountSpend, current_spend, scope_spend
from ledger.errors import LedgerUnavailable
from ledger.model import CallRow
from ledger.ports import CallsAsk, CallsRow, Filter, Interval, LedgerReader, SpendAsk, SpendRow, StateChange
from ledger.queries import BurnPoint, Forecast, burn_down, forecast, top

_TOP = 7
_CALLS = 25
_CHANGES = 20
_SLOT_MS = 900_000
T = TypeVar("T")


@dataclass(slots=True)
class History:
    """What the ledger tells of a stretch of time. missing: why it tells nothing."""

    missing: str | None = None
    known_until_ms: int | None = None
    lag: int = 0
    total: CallsRow | None = None
    by_group: list[SpendRow] = field(default_factory=list)
    over_time: list[SpendRow] = field(default_factory=list)
    calls: list[CallRow] = field(default_factory=list)
    changes: list[StateChange] = field(default_factory=list)


@dataclass(slots=True)
class Burn:
    """How an account's period goes. points: spent so far."""

    account: AccountSpend
    points: list[BurnPoint]
    forecast: Forecast | None


@dataclass(slots=True)
class Overview:
    """The first page. rows: accounts, the most loaded first."""

    rows: list[AccountSpend]
    states: dict[BudgetState, int]
    history: History
    burn: Burn | None


@dataclass(slots=True)
class ScopeView:
    """The page of a scope. chain: other scopes that its calls were also charged to."""

    scope: Scope
    rows: list[AccountSpend]
    history: History
    by_model: list[SpendRow]
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
    await deps.refresh()
    now_ms = deps.clock.now_ms()
    rows = [r for r in await current_spend(deps.store, deps.book, now_ms) if r.in_force]
    rows.sort(key=_load, reverse=True)
    states = {state: sum(r.state is state for r in rows) for state in BudgetState}
    history = await _history(deps.ledger, shown, (), ("agent",))
    return Overview(rows, states, history, await _burn(deps, rows, now_ms))


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
    only = (Filter("model" if scope.type == "model" else scope.type, (scope.key,)),)
    history = await _history(deps.ledger, shown, only, ("model",))
    if not rows and not history.calls and history.missing is None:
        raise NotFound(f"no budget watches {scope}, and it has spent nothing in the last {shown.label}")
    chain = {name for call in history.calls for name in call.scopes} - {str(scope)}
    related = [Scope(*name.split(":", 1)) for name in sorted(chain)]
    ids = [row.terms.id for row in rows]
    if deps.ledger and not history.missing:
        history.changes = await deps.ledger.state_changes(shown.interval, ids, _CHANGES)
    return ScopeView(scope, rows, history, history.by_group, await _burn(deps, rows, now_ms), related)


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


async def _history(
    ledger: LedgerReader | None, shown: Range, filters: Sequence[Filter], group_by: tuple[str, ...]
) -> History:
    if ledger is None:
        return History("The ledger is switched off; set SPENDGATE_LEDGER=embedded to keep history.")
    only = tuple(filters)
    try:
        facts = await ledger.facts()
        total = await ledger.calls(SpendAsk(shown.interval, (), None, shown.zone, only))
        spent = await ledger.spend(SpendAsk(shown.interval, group_by, shown.bucket, shown.zone, only))
        calls = await ledger.call_list(CallsAsk(shown.interval, only, _CALLS))
    except LedgerUnavailable as error:
        return History(f"History can't be read now: {error.message}. Live numbers are not affected.")
    over_time = top(spent, _TOP)
    return History(
        known_until_ms=facts.get("newestMs"),
        lag=facts.get("lag", 0),
        total=total[0] if total else None,
        by_group=_by_group(over_time),
        over_time=over_time,
        calls=calls,
    )


def _by_group(rows: Sequence[SpendRow]) -> list[SpendRow]:
    """Over all buckets."""
    sums: dict[tuple[str | None, ...], SpendRow] = {}
    for row in rows:
        was = sums.get(row.group)
        sums[row.group] = SpendRow(
            row.group,
            None,
            row.cost_usd + (was.cost_usd if was else 0),
            row.list_cost_usd + (was.list_cost_usd if was else 0),
            row.quantity + (was.quantity if was else 0),
        )
    return sorted(sums.values(), key=lambda row: -row.cost_usd)


async def _burn(deps: Deps, rows: Sequence[AccountSpend], now_ms: int) -> Burn | None:
    """Of the most loaded account whose period ends."""
    account = next((r for r in rows if r.terms.period.end_ms is not None and r.terms.limit_nano), None)
    if account is None or deps.ledger is None:
        return None
    period = Interval(account.terms.period.start_ms, account.terms.period.end_ms or now_ms)
    try:
        points = await deps.ledger.postings([account.terms.id], Interval(period.start_ms - _SLOT_MS, period.end_ms))
    except LedgerUnavailable:
        return None
    return Burn(account, burn_down(points, _SLOT_MS), forecast(points, period, now_ms, account.terms.limit_nano))


def _load(row: AccountSpend) -> tuple[int, float]:
    return row.state, (row.spent_nano + row.held_nano) / (row.terms.limit_nano or 1)


def chart_of(rows: Sequence[SpendRow], interval: Interval) -> dict[str, Any]:
    """Stacked spend over time, in dollars for drawing alone: ``{"times": [ms], "series": [{"name", "usd"}]}``, and the
    interval's start and end.
    """
    times = sorted({row.bucket_ms for row in rows if row.bucket_ms is not None})
    order = list(dict.fromkeys(row.group for row in sorted(rows, key=lambda r: -r.cost_usd)))
    cells = {(row.group, row.bucket_ms): row.cost_usd for row in rows}
    return {
        "start": interval.start_ms,
        "end": interval.end_ms,
        "times": times,
        "series": [
            {"name": group[0] or "none", "usd": [float(cells.get((group, at), 0)) for at in times]} for group in order
        ],
    }


def burn_chart(burn: Burn, now_ms: int) -> dict[str, Any]:
    """A period's spend so far, where it leads, and the limit, in dollars for drawing alone."""
    terms, found = burn.account.terms, burn.forecast
    chart: dict[str, Any] = {
        "start": terms.period.start_ms,
        "end": terms.period.end_ms,
        "now": now_ms,
        "limit": terms.limit_nano / 1e9,
        "hard": terms.hard_nano / 1e9,
        "spent": [[terms.period.start_ms, 0]] + [[min(p.at_ms, now_ms), p.spent_nano / 1e9] for p in burn.points],
    }
    if found:
        chart["forecast"] = {
            "expected": found.expected_nano / 1e9,
            "low": found.low_nano / 1e9,
            "high": found.high_nano / 1e9,
        }
    return chart


def total_nano(rows: Sequence[SpendRow]) -> int:
    """What rows come to."""
    return sum(nano_of(row.cost_usd) for row in rows)
