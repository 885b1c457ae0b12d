"""Errors and refusals as HTTP answers: status, headers and the facts; the surface adds its envelope."""

from dataclasses import field
from typing import Any

from budget.model import RefusalCode
from budget.service import Refused
from core.clock import iso_utc
from core.errors import InvalidInput, SpendgateError
from core.money import format_usd
from core.values import value
from gateway.call import AccountStanding, Call
from gateway.headers import budget_lines
from gateway.http import header_lines
from gateway.why import deciding, why_refused
from routing.errors import FailureKind, UpstreamError


@value
class Problem:
    """An error as every surface needs it. param: the field at fault. lines: its headers. facts: numbers of a
    refusal.
    """

    status: int
    type: str
    code: str
    message: str
    param: str | None = None
    lines: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    431: "request_too_large",
}

#: What the client hears when the upstream failed. 402 is kept for budgets.
_UPSTREAM_STATUS = {
    FailureKind.NOT_SENT: 502,
    FailureKind.RATE_LIMITED: 429,
    FailureKind.POLICY_LIMITED: 429,
    FailureKind.DAILY_LIMIT: 503,
    FailureKind.UNAVAILABLE: 503,
    FailureKind.NOT_FOUND: 502,
    FailureKind.REJECTED: 400,
    FailureKind.UNAUTHORIZED: 502,
    FailureKind.TIMEOUT: 504,
    FailureKind.BROKEN: 502,
}


def problem_of(error: SpendgateError) -> Problem:
    """One of our own errors."""
    retry_after_s = getattr(error, "retry_after_s", None)
    lines = "" if retry_after_s is None else header_lines({"Retry-After": str(retry_after_s)})
    param = error.field if isinstance(error, InvalidInput) else None
    return Problem(error.status, _TYPES.get(error.status, "api_error"), error.code, error.message, param, lines)


def problem_of_upstream(error: UpstreamError) -> Problem:
    """A failure of the last upstream that was tried."""
    status = _UPSTREAM_STATUS[error.kind]
    if error.kind is FailureKind.REJECTED and error.status is not None:
        status = error.status
    lines = ""
    if status in (429, 503):
        lines = header_lines({"Retry-After": str(max(1, round(error.retry_after_s or 1)))})
    code = (error.vendor_code or f"upstream_{error.kind.value}").lower()
    kind = "rate_limit_error" if status == 429 else _TYPES.get(status, "upstream_error")
    return Problem(status, kind, code, f"upstream: {error.message}", lines=lines)


def problem_of_refusal(call: Call, refused: Refused) -> Problem:
    """A refusal by a budget: 402, which SDKs do not retry; 429 where waiting helps, which they do."""
    refusal = refused.refusal
    lines = ""
    facts: dict[str, Any] = {"neededUsd": format_usd(refusal.needed_nano)}
    decided = deciding(refusal, refused.plan)
    if decided:
        terms, balance = decided
        standing = AccountStanding(terms, balance.spent_nano, balance.held_nano, balance.state)
        lines = budget_lines(standing)
        facts |= {
            "scope": str(terms.scope),
            "budgetId": terms.budget.id,
            "state": balance.state.label,
            "spentUsd": format_usd(balance.spent_nano),
            "heldUsd": format_usd(balance.held_nano),
            "limitUsd": format_usd(terms.limit_nano),
            "hardLimitUsd": format_usd(terms.hard_nano),
            "resetAt": iso_utc(terms.period.end_ms) if terms.period.end_ms else None,
        }
    message = why_refused(call, refused)
    if refusal.code is RefusalCode.HELD:
        lines += header_lines({"Retry-After": "1"})
        return Problem(429, "budget_held", refusal.code.value, message, None, lines, facts)
    if refusal.code is RefusalCode.NO_MODEL:
        lines += header_lines({"Retry-After": "5"})
        return Problem(503, "upstream_unavailable", refusal.code.value, message, None, lines, facts)
    return Problem(402, "budget_exceeded", refusal.code.value, message, None, lines, facts)
