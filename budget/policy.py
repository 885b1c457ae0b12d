"""Pure decisions: which limits hold for an account now, and which candidate fits. No clock, no store.

`decide` is the specification of `lua/reserve.lua`; the contract suite holds them together.
"""

from dataclasses import dataclass

from budget.model import (
    NOT_WHEN_DEGRADED,
    UNAFFECTED,
    AccountTerms,
    Balance,
    Budget,
    BudgetState,
    Candidate,
    Refusal,
    RefusalCode,
)
from core.money import fraction_floor
from core.period import Period, period_at
from core.scope import Scope


def account_terms(budget: Budget, scope: Scope, now_ms: int, smallest_call_nano: int) -> AccountTerms:
    """The account of `scope` under `budget` at `now_ms`, with the limits in force then.

    smallest_call_nano: the least that any call can hold; no room for it means Stopped.
    """
    period = period_at(budget.cadence, budget.zone, now_ms)
    limit_nano, until_ms = budget.limit_nano, period.end_ms
    for top_up in budget.top_ups:
        if top_up.period_id == period.id and top_up.expires_ms > now_ms and top_up.key in (None, scope.key):
            limit_nano += top_up.amount_nano
            until_ms = top_up.expires_ms if until_ms is None else min(until_ms, top_up.expires_ms)
    hard_nano = fraction_floor(limit_nano, budget.policy.hard_cap)
    return AccountTerms(
        id=account_id(budget, scope.key, period),
        budget=budget,
        scope=scope,
        period=period,
        limit_nano=limit_nano,
        soft_nano=fraction_floor(limit_nano, budget.policy.soft_cap),
        stop_at_nano=max(0, hard_nano - smallest_call_nano + 1),
        hard_nano=hard_nano,
        until_ms=until_ms,
    )


def account_id(budget: Budget, key: str, period: Period) -> str:
    """``<budget>:<period>[.r<resets>]:<key>``. A reset starts a new account; the old one keeps its history."""
    resets = sum(1 for r in budget.resets if r.period_id == period.id and r.key in (None, key))
    suffix = f".r{resets}" if resets else ""
    return f"{budget.id}:{period.id}{suffix}:{key}"


def parse_account_id(account: str) -> tuple[str, str, str]:
    """(budget id, period id with its reset suffix, scope key) of an account's id."""
    budget_id, period_id, key = account.split(":", 2)
    return budget_id, period_id, key


@dataclass(frozen=True, slots=True)
class Choice:
    """The first candidate that fits, and how much it holds."""

    candidate: int
    tokens: int
    amount_nano: int


def decide(
    accounts: tuple[AccountTerms, ...],
    balances: tuple[Balance, ...],
    candidates: tuple[Candidate, ...],
) -> Choice | Refusal:
    """The ladder: each candidate in order, whole, then shortened; the first that fits on all its accounts.

    A refusal says HELD only if some permitted candidate would fit, were nothing in flight.
    """
    if not accounts:
        return Refusal(RefusalCode.NO_BUDGET, None, 0, ())
    refusal: Refusal | None = None
    for index, candidate in enumerate(candidates):
        watching = [i for i, c in enumerate(candidate.watched) if c != UNAFFECTED]
        if not watching:
            refusal = refusal or Refusal(RefusalCode.NO_BUDGET, None, 0, balances)
            continue
        if not _permitted(candidate, watching, balances):
            continue
        room = min(accounts[i].hard_nano - balances[i].spent_nano - balances[i].held_nano for i in watching)
        tokens = _tokens_that_fit(candidate, room)
        stopped = next((i for i in watching if balances[i].state is BudgetState.STOPPED), None)
        if tokens is not None and stopped is None:
            return Choice(index, tokens, candidate.ceiling_nano(tokens))
        refusal = _milder(refusal, _refuse(accounts, balances, candidate, watching, stopped))
    return refusal or Refusal(RefusalCode.NO_MODEL, None, 0, balances)


def _permitted(candidate: Candidate, watching: list[int], balances: tuple[Balance, ...]) -> bool:
    return not any(
        candidate.watched[i] == NOT_WHEN_DEGRADED and balances[i].state >= BudgetState.DEGRADED for i in watching
    )


def _tokens_that_fit(candidate: Candidate, room_nano: int) -> int | None:
    if candidate.ceiling_nano(candidate.tokens) <= room_nano:
        return candidate.tokens
    if candidate.min_tokens >= candidate.tokens or room_nano < candidate.base_nano:
        return None
    tokens = (room_nano - candidate.base_nano) * 1000 // candidate.out_pico
    return tokens if tokens >= candidate.min_tokens else None


def _refuse(
    accounts: tuple[AccountTerms, ...],
    balances: tuple[Balance, ...],
    candidate: Candidate,
    watching: list[int],
    stopped: int | None,
) -> Refusal:
    needed = candidate.ceiling_nano(candidate.min_tokens)
    if stopped is not None:
        return Refusal(RefusalCode.STOPPED, stopped, needed, balances)
    for i in watching:
        if balances[i].spent_nano + needed > accounts[i].hard_nano:
            return Refusal(RefusalCode.EXCEEDED, i, needed, balances)
    blocking = next(
        i for i in watching if balances[i].spent_nano + balances[i].held_nano + needed > accounts[i].hard_nano
    )
    return Refusal(RefusalCode.HELD, blocking, needed, balances)


def _milder(first: Refusal | None, second: Refusal) -> Refusal:
    """HELD beats the rest, because then waiting helps; otherwise the last candidate, the cheapest, speaks."""
    if first is not None and first.code is RefusalCode.HELD:
        return first
    return second
