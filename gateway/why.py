"""Why a call was not served as asked, in a sentence with the numbers that decided."""

from collections.abc import Sequence

from budget.model import AccountTerms, Balance, BudgetState, Refusal, RefusalCode
from budget.service import Admission, Plan, Refused
from core.clock import iso_utc
from core.money import format_usd
from gateway.call import Call, standing_now
from routing.model import Model


def describe(terms: AccountTerms) -> str:
    """``agent:research-bot's daily $50.00``."""
    return f"{terms.scope}'s {terms.budget.cadence} ${format_usd(terms.limit_nano)}"


def percent(spent_nano: int, limit_nano: int) -> str:
    """Spend as a whole percentage of a limit, such as ``104 %``."""
    return f"{spent_nano * 100 // limit_nano} %" if limit_nano else "over 100 %"


def why_not_as_asked(asked: Model, admission: Admission, failed: Sequence[str], skipped: Sequence[str]) -> str | None:
    """The reason for another model or fewer tokens than asked for; None if there is nothing to explain."""
    served = admission.candidate
    if served.model != asked.name:
        if asked.name in failed:
            return f"Fallback: {asked.name} failed upstream"
        if asked.name in skipped:
            return f"Fallback: the circuit of {asked.name} is open"
        degraded = _degraded(admission)
        if degraded:
            terms, balance = degraded
            share = percent(balance.spent_nano, terms.limit_nano)
            return (
                f"Degraded: {terms.scope} is at {share} of its {terms.budget.cadence} ${format_usd(terms.limit_nano)}"
            )
        return f"Downgraded: {asked.name} did not fit; {_tightest(admission)}"
    if admission.hold.tokens < served.tokens:
        return f"Shortened: max_tokens {served.tokens} -> {admission.hold.tokens}; {_tightest(admission)}"
    return None


def why_refused(call: Call, refused: Refused) -> str:
    """The refusal as a sentence: whose budget, what is spent and held, what was needed, when it ends."""
    refusal, plan = refused.refusal, refused.plan
    if refusal.code is RefusalCode.NO_BUDGET:
        chain = ", ".join(str(scope) for scope in call.chain) or "which names no scope"
        return f"no budget covers this call ({chain}); create one for one of these scopes, or name a scope that has one"
    if refusal.account is None:
        return "the budgets' states leave no model that could serve this call"
    terms, balance = plan.accounts[refusal.account], refusal.balances[refusal.account]
    numbers = (
        f"spent ${format_usd(balance.spent_nano)}, held ${format_usd(balance.held_nano)}, "
        f"hard cap ${format_usd(terms.hard_nano)}, needed ${format_usd(refusal.needed_nano)}"
    )
    ends = f"; the period ends {iso_utc(terms.period.end_ms)}" if terms.period.end_ms else ""
    if refusal.code is RefusalCode.HELD:
        return f"calls in flight hold the rest of {describe(terms)} ({numbers}); try again when one of them ends"
    if refusal.code is RefusalCode.STOPPED:
        return f"{describe(terms)} is used up ({numbers}){ends}"
    return f"{describe(terms)} has no room left for this call ({numbers}){ends}"


def deciding(refusal: Refusal, plan: Plan) -> tuple[AccountTerms, Balance] | None:
    """The account that refused, with its balance."""
    if refusal.account is None:
        return None
    return plan.accounts[refusal.account], refusal.balances[refusal.account]


def decisive(asked: Model, admission: Admission) -> AccountTerms:
    """The account that an admitted call's answer names: whose state or room kept it from being served as asked, else
    the one nearest its end.
    """
    served = admission.candidate
    degraded = _degraded(admission)
    if served.model != asked.name and degraded:
        return degraded[0]
    if served.model != asked.name or admission.hold.tokens < served.tokens:
        return _tightest_account(admission)[0]
    return standing_now(admission).terms


def _degraded(admission: Admission) -> tuple[AccountTerms, Balance] | None:
    rows = zip(admission.plan.accounts, admission.hold.balances, strict=True)
    return next(((t, b) for t, b in rows if b.state >= BudgetState.DEGRADED), None)


def _tightest_account(admission: Admission) -> tuple[AccountTerms, Balance]:
    rows = zip(admission.plan.accounts, admission.hold.balances, strict=True)
    return min(rows, key=lambda row: row[0].hard_nano - row[1].spent_nano - row[1].held_nano)


def _tightest(admission: Admission) -> str:
    terms, balance = _tightest_account(admission)
    left = terms.hard_nano - balance.spent_nano - balance.held_nano + admission.hold.amount_nano
    return f"{describe(terms)} had ${format_usd(left)} left under its hard cap"
