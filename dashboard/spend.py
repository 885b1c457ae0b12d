"""GET /api/dashboard/spend: what is spent, held and left.

Accounts come from the store, their limits from the budgets in force now. An account whose budget is gone, or which
is of a past period or from before a reset, is history and not shown. `inForce` is false for an account whose
budget is paused, or stands back behind a budget on the exact key: its spend is shown, it refuses nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query, Response

from budget.book import BudgetBook
from budget.model import AccountTerms, Budget, BudgetState
from budget.policy import account_terms, parse_account_id
from core.clock import iso_utc
from core.errors import InvalidInput, NotFound
from core.scope import WILDCARD, Scope, parse_scope
from dashboard.deps import Deps, LiveState
from dashboard.wire import answer, iso_or_none, usd

_BALANCES_AT_ONCE = 2_000  # one pipeline of all accounts would keep the calls of the gateway waiting


@dataclass(frozen=True, slots=True)
class AccountSpend:
    """An account with its balance, in nano-dollars."""

    terms: AccountTerms
    in_force: bool
    spent_nano: int
    held_nano: int

    @property
    def state(self) -> BudgetState:
        """The state at this spend."""
        return self.terms.state_at(self.spent_nano)

    @property
    def hard_remaining_nano(self) -> int:
        """What can still be held."""
        return max(0, self.terms.hard_nano - self.spent_nano - self.held_nano)


@dataclass(frozen=True, slots=True)
class SpendFilter:
    """Which accounts to show; None: whatever it is."""

    scope_type: str | None
    state: BudgetState | None
    budget_id: str | None

    def takes(self, row: AccountSpend) -> bool:
        """True if the account is to be shown."""
        return (
            self.scope_type in (None, row.terms.scope.type)
            and self.state in (None, row.state)
            and self.budget_id in (None, row.terms.budget.id)
        )


class SpendApi:
    """The handlers."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def all(
        self,
        scope_type: Annotated[str | None, Query(alias="scopeType")] = None,
        state: Annotated[str | None, Query(description="Active, Warned, Degraded or Stopped")] = None,
        budget_id: Annotated[str | None, Query(alias="budgetId")] = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 500,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> Response:
        """All accounts of current periods, most spent first. Money in dollars; `totals` are of all that match.

        A dollar is counted once in each budget that watches it, so totals are per budget.
        """
        wanted = SpendFilter(scope_type, _state(state), budget_id)
        await self._deps.refresh()
        now_ms = self._deps.clock.now_ms()
        rows = [r for r in await current_spend(self._deps.store, self._deps.book, now_ms) if wanted.takes(r)]
        rows.sort(key=lambda r: (-r.spent_nano, -r.held_nano, r.terms.id))
        scopes = [shown_account(row) for row in rows[offset : offset + limit]]
        return answer({"asOf": iso_utc(now_ms), "scopes": scopes, "totals": _totals(rows)})

    async def one(self, scope_key: str, scope_type: Annotated[str | None, Query(alias="scopeType")] = None) -> Response:
        """One scope: at the top its tightest account, under `scopes` all of them.

        Without `scopeType`: each type that has this key, by name in a budget or by use; if none has, each type
        that a wildcard budget watches.
        """
        await self._deps.refresh()
        now_ms = self._deps.clock.now_ms()
        types = [scope_type] if scope_type is not None else _types(self._deps.book)
        named = [parse_scope("scope", kind, scope_key) for kind in types]
        rows = await scope_spend(self._deps.store, self._deps.book, named, now_ms)
        if scope_type is None:
            rows = [r for r in rows if r.terms.scope.type in _types_with_key(rows)] or rows
        if not rows:
            raise NotFound(f"no budget watches {scope_type + ':' if scope_type else ''}{scope_key}")
        rows.sort(key=lambda r: (not r.in_force, -r.state, r.hard_remaining_nano, r.terms.id))
        shown = [shown_account(row) for row in rows]
        return answer({"asOf": iso_utc(now_ms), **shown[0], "scopes": shown})


def router(deps: Deps) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/dashboard/spend", tags=["spend"])
    api = SpendApi(deps)
    routes.add_api_route("", api.all, methods=["GET"], name="list_spend")
    routes.add_api_route("/{scope_key:path}", api.one, methods=["GET"], name="read_spend")
    return routes


async def current_spend(store: LiveState, book: BudgetBook, now_ms: int) -> list[AccountSpend]:
    """Every account of the present, as far as its budget still exists."""
    return await spend_of(store, book, await store.current_accounts(now_ms), now_ms)


async def spend_of(store: LiveState, book: BudgetBook, accounts: Iterable[str], now_ms: int) -> list[AccountSpend]:
    """These accounts, as far as they are of the present and their budget still exists."""
    found = (_present_terms(book, account, now_ms) for account in accounts)
    return await _with_balances(store, book, [terms for terms in found if terms])


async def scope_spend(store: LiveState, book: BudgetBook, scopes: Iterable[Scope], now_ms: int) -> list[AccountSpend]:
    """The accounts of these scopes: those in force, used or not, and others if there is money on them."""
    terms = [
        account_terms(budget, scope, now_ms, book.smallest_call_nano)
        for scope in scopes
        for budget in book.all()
        if _watches(budget, scope)
    ]
    rows = await _with_balances(store, book, terms)
    return [r for r in rows if r.in_force or r.spent_nano or r.held_nano]


async def _with_balances(store: LiveState, book: BudgetBook, terms: Sequence[AccountTerms]) -> list[AccountSpend]:
    rows = []
    for start in range(0, len(terms), _BALANCES_AT_ONCE):
        some = terms[start : start + _BALANCES_AT_ONCE]
        balances = await store.balances([t.id for t in some])
        for t, balance in zip(some, balances, strict=True):
            rows.append(AccountSpend(t, _in_force(book, t), balance.spent_nano, balance.held_nano))
    return rows


def _present_terms(book: BudgetBook, account: str, now_ms: int) -> AccountTerms | None:
    """The terms of an account by its id; None if it is history."""
    budget_id, _, key = parse_account_id(account)
    try:
        budget = book.get(budget_id)
    except NotFound:
        return None
    scope = Scope(budget.scope.type, key)
    terms = account_terms(budget, scope, now_ms, book.smallest_call_nano)
    return terms if terms.id == account and _watches(budget, scope) else None


def _watches(budget: Budget, scope: Scope) -> bool:
    return budget.scope.type == scope.type and budget.scope.key in (WILDCARD, scope.key)


def _in_force(book: BudgetBook, terms: AccountTerms) -> bool:
    return any(b.id == terms.budget.id for b in book.for_scope(terms.scope))


def _types(book: BudgetBook) -> list[str]:
    return sorted({budget.scope.type for budget in book.all()})


def _types_with_key(rows: Sequence[AccountSpend]) -> set[str]:
    """The scope types that have this key: a budget names it, or money is on it."""
    return {r.terms.scope.type for r in rows if r.spent_nano or r.held_nano or not r.terms.budget.scope.is_wildcard}


def _state(text: str | None) -> BudgetState | None:
    if text is None:
        return None
    try:
        return BudgetState[text.upper()]
    except KeyError:
        labels = ", ".join(state.label for state in BudgetState)
        raise InvalidInput("state", f"must be one of {labels}") from None


def shown_account(row: AccountSpend) -> dict[str, object]:
    """An account as answers show it."""
    terms = row.terms
    without_end = terms.period.end_ms is None
    return {
        "scopeType": terms.scope.type,
        "scopeKey": terms.scope.key,
        "budgetId": terms.budget.id,
        "cadence": terms.budget.cadence,
        "timeZone": terms.budget.zone,
        "period": terms.period.id,
        "periodStart": None if without_end else iso_utc(terms.period.start_ms),
        "periodEnd": iso_or_none(terms.period.end_ms),
        "spent": usd(row.spent_nano),
        "held": usd(row.held_nano),
        "limit": usd(terms.limit_nano),
        "remaining": usd(max(0, terms.limit_nano - row.spent_nano)),
        "hardLimit": usd(terms.hard_nano),
        "hardRemaining": usd(row.hard_remaining_nano),
        "percent": _percent(row.spent_nano, terms.limit_nano),
        "state": row.state.label,
        "inForce": row.in_force,
    }


def _percent(part_nano: int, whole_nano: int) -> object:
    """Part of the whole in percent, two decimals, rounded down; None of nothing."""
    if whole_nano <= 0:
        return None
    return usd(part_nano * 10_000 // whole_nano * 10_000_000)  # hundredths of a percent, as a decimal


def _totals(rows: Sequence[AccountSpend]) -> dict[str, object]:
    spent: Counter[str] = Counter()
    held: Counter[str] = Counter()
    scopes: Counter[str] = Counter()
    for row in rows:
        budget_id = row.terms.budget.id
        spent[budget_id] += row.spent_nano
        held[budget_id] += row.held_nano
        scopes[budget_id] += 1
    states = Counter(row.state for row in rows)
    return {
        "scopes": len(rows),
        "states": {state.label: states[state] for state in BudgetState},
        "budgets": [
            {"budgetId": b, "scopes": scopes[b], "spent": usd(spent[b]), "held": usd(held[b])} for b in sorted(scopes)
        ],
    }
