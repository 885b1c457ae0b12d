"""Small budgets, accounts and requests, so that a test says only what it is about."""

import time
from collections.abc import Sequence

from budget.memory_store import MemoryBudgetStore
from budget.model import (
    AccountTerms,
    Basis,
    Budget,
    Candidate,
    Hold,
    NextHold,
    Refusal,
    ReserveRequest,
    Resolution,
    ResolveMode,
    Settlement,
)
from budget.redis_store import RedisBudgetStore
from core.period import Period
from core.scope import Scope

Store = MemoryBudgetStore | RedisBudgetStore
FOREVER = Period("total", 0, None)


def wall_ms() -> int:
    """This machine's clock, which is also that of the local servers."""
    return time.time_ns() // 1_000_000


def terms(
    key: str = "bot",
    *,
    limit: int = 100,
    soft: int | None = None,
    hard: int | None = None,
    smallest: int = 1,
    budget_id: str = "b",
    period: Period = FOREVER,
) -> AccountTerms:
    """An account of nano-dollars; without more, Warned above 80 %, and limit and hard cap are the same."""
    hard = limit if hard is None else hard
    return AccountTerms(
        id=f"{budget_id}:{period.id}:{key}",
        budget=Budget(budget_id, Scope("agent", key), limit),
        scope=Scope("agent", key),
        period=period,
        limit_nano=limit,
        soft_nano=limit * 8 // 10 if soft is None else soft,
        stop_at_nano=max(0, hard - smallest + 1),
        hard_nano=hard,
    )


def fixed(amount: int, watched: str = "1", model: str = "m") -> Candidate:
    """A candidate of one price that can't be shortened."""
    return Candidate(model, amount, 0, 1, 1, watched)


def metered(base: int, per_token: int, tokens: int, fewest: int, watched: str = "1") -> Candidate:
    """A candidate of `base` plus `per_token` nano-dollars per output token."""
    return Candidate("m", base, per_token * 1000, tokens, fewest, watched)


def ask(
    hold_id: str,
    accounts: Sequence[AccountTerms],
    *candidates: Candidate,
    version: int = 0,
    lease_ms: int = 3_600_000,
    now_ms: int | None = None,
    detail: bytes = b"{}",
) -> ReserveRequest:
    """A request to hold; the lease outlives every test unless it says otherwise."""
    return ReserveRequest(
        hold_id,
        "worker",
        wall_ms() if now_ms is None else now_ms,
        version,
        lease_ms,
        tuple(accounts),
        candidates,
        detail,
    )


async def held(store: Store, hold_id: str, amount: int, *accounts: AccountTerms, lease_ms: int = 3_600_000) -> Hold:
    """Hold an amount on all these accounts; it must fit."""
    verdict = await store.reserve(ask(hold_id, accounts, fixed(amount, "1" * len(accounts)), lease_ms=lease_ms))
    assert isinstance(verdict, Hold), verdict
    return verdict


async def refused(store: Store, hold_id: str, amount: int, *accounts: AccountTerms) -> Refusal:
    """Ask for an amount on all these accounts; it must be refused."""
    verdict = await store.reserve(ask(hold_id, accounts, fixed(amount, "1" * len(accounts))))
    assert isinstance(verdict, Refusal), verdict
    return verdict


async def end(
    store: Store,
    mode: ResolveMode,
    hold_id: str,
    accounts: Sequence[AccountTerms],
    cost: int = 0,
    *,
    basis: Basis = Basis.EXACT,
    following: NextHold | None = None,
    with_terms: bool = False,
    detail: bytes = b"{}",
) -> Settlement:
    """Resolve a hold on these accounts."""
    return await store.resolve(
        Resolution(
            hold_id,
            mode,
            tuple(a.id for a in accounts),
            cost,
            basis,
            detail,
            next_hold=following,
            lease_ms=3_600_000,
            owner="worker",
            terms=tuple(accounts) if with_terms else (),
        )
    )


async def spent_and_held(store: Store, account: AccountTerms) -> tuple[int, int]:
    """(spent, held) of one account, in nano-dollars."""
    [row] = await store.balances([account.id])
    return row.spent_nano, row.held_nano


async def events(store: Store, kind: str = "") -> list[dict[str, str]]:
    """The fields of the store's events: of one type, or of money and states."""
    everything = [fields for _, fields in await store.events()]
    return [e for e in everything if e["type"] == kind or (not kind and e["type"] not in ("hold", "terms"))]
