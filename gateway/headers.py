"""The headers that every answer carries; money as plain decimal dollars."""

from functools import lru_cache
from urllib.parse import quote

from core.clock import iso_utc
from core.money import format_usd
from core.scope import Scope
from gateway.call import AccountStanding, Attempt, Call
from gateway.http import Headers


@lru_cache(4096)
def scope_header(scope: Scope) -> str:
    """``agent:research-bot``, percent-encoded where a header could not carry it."""
    return quote(str(scope), safe=":/@ !#$&'()*+,;=?[]~")


def budget_headers(standing: AccountStanding) -> Headers:
    """Where the account that decides stands. Remaining counts to the limit, not to the hard cap."""
    terms = standing.terms
    return {
        "X-Budget-State": standing.state.label,
        "X-Budget-Scope": scope_header(terms.scope),
        "X-Budget-Spent": format_usd(standing.spent_nano),
        "X-Budget-Held": format_usd(standing.held_nano),
        "X-Budget-Limit": format_usd(terms.limit_nano),
        "X-Budget-Remaining": format_usd(max(0, terms.limit_nano - standing.spent_nano)),
        "X-Budget-Reset": iso_utc(terms.period.end_ms) if terms.period.end_ms else "never",
    }


def call_headers(
    call: Call,
    attempt: Attempt,
    standing: AccountStanding,
    skipped_circuits: list[str],
    overhead_s: float,
    cost_nano: int | None,
) -> Headers:
    """The headers of an answered call. cost_nano: None when it is not known yet (a stream)."""
    headers = budget_headers(standing)
    headers["X-Request-Id"] = call.request_id
    headers["X-Model-Requested"] = call.asked or attempt.admission.plan.candidates[0].model
    headers["X-Model-Served"] = attempt.model.name
    headers["X-Overhead-Ms"] = f"{overhead_s * 1000:.2f}"
    if cost_nano is not None:
        headers["X-Cost-Usd"] = format_usd(cost_nano)
    if attempt.why:
        headers["X-Downgrade-Reason"] = quote(attempt.why, safe=":/@ !#$&'()*+,;=?[]~%>")
    if attempt.dropped_tools:
        headers["X-Tools-Dropped"] = quote(",".join(attempt.dropped_tools), safe=",")
    if skipped_circuits:
        headers["X-Circuit-Open"] = ",".join(skipped_circuits)
    return headers
