"""The headers that every answer carries, as lines; money as plain decimal dollars.

What is the same for many calls is written once. Nothing here can hold a line break: names are percent-encoded.
"""

from functools import lru_cache
from urllib.parse import quote

from budget.model import AccountTerms
from core.clock import iso_utc
from core.kept import Kept
from core.money import format_usd
from gateway.call import AccountStanding, Attempt, Call

_SAFE = ":/@ !#$&'()*+,;=?[]~"


def budget_lines(standing: AccountStanding) -> str:
    """Where the account that decides stands. Remaining counts to the limit, not to the hard cap."""
    terms, spent_nano = standing.terms, standing.spent_nano
    remaining_nano = terms.limit_nano - spent_nano
    return (
        f"{_account_lines.of(terms)}X-Budget-State: {standing.state.label}\r\n"
        f"X-Budget-Spent: {format_usd(spent_nano)}\r\nX-Budget-Held: {format_usd(standing.held_nano)}\r\n"
        f"X-Budget-Remaining: {format_usd(remaining_nano) if remaining_nano > 0 else '0.00'}\r\n"
    )


def call_lines(
    call: Call,
    attempt: Attempt,
    standing: AccountStanding,
    skipped_circuits: list[str],
    overhead_s: float,
    cost_nano: int | None,
) -> str:
    """The headers of an answered call. cost_nano: None when it is not known yet (a stream)."""
    asked = call.asked or attempt.admission.plan.candidates[0].model
    lines = (
        f"{budget_lines(standing)}X-Request-Id: {call.request_id}\r\n"
        f"{_model_lines(asked, attempt.model.name)}X-Overhead-Ms: {overhead_s * 1000:.2f}\r\n"
    )
    if cost_nano is not None:
        lines += f"X-Cost-Usd: {format_usd(cost_nano)}\r\n"
    if attempt.why:
        lines += f"X-Downgrade-Reason: {quote(attempt.why, safe=_SAFE + '%>')}\r\n"
    if attempt.dropped_tools:
        lines += f"X-Tools-Dropped: {quote(','.join(attempt.dropped_tools), safe=',')}\r\n"
    if skipped_circuits:
        lines += f"X-Circuit-Open: {quote(','.join(skipped_circuits), safe=_SAFE)}\r\n"
    return lines


def _lines_of_account(terms: AccountTerms) -> str:
    resets = iso_utc(terms.period.end_ms) if terms.period.end_ms else "never"
    scope = quote(str(terms.scope), safe=_SAFE)
    return f"X-Budget-Scope: {scope}\r\nX-Budget-Limit: {format_usd(terms.limit_nano)}\r\nX-Budget-Reset: {resets}\r\n"


_account_lines = Kept(_lines_of_account)


@lru_cache(4096)
def _model_lines(asked: str, served: str) -> str:
    return f"X-Model-Requested: {quote(asked, safe=_SAFE)}\r\nX-Model-Served: {quote(served, safe=_SAFE)}\r\n"
