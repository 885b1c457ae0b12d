"""How an upstream call fails, sorted by what the flow has to do about it."""

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """What happened. The flow decides from this alone, never from a vendor's text."""

    NOT_SENT = "not_sent"  # no connection, or it broke before the request was out: nothing can be charged
    RATE_LIMITED = "rate_limited"  # a short-term limit: wait and try again, or fall back
    POLICY_LIMITED = "policy_limited"  # a limit that an administrator set: fall back, do not hammer
    DAILY_LIMIT = "daily_limit"  # the account's daily spend limit: never retried today
    UNAVAILABLE = "unavailable"  # 5xx before an answer: try again, or fall back
    NOT_FOUND = "not_found"  # retired or misnamed endpoint: fall back
    REJECTED = "rejected"  # the request itself is wrong (400, 413, 422): the client must hear it
    UNAUTHORIZED = "unauthorized"  # our credentials are wrong: fall back, tell the operator
    TIMEOUT = "timeout"  # sent, no complete answer within the deadline: probably charged
    BROKEN = "broken"  # sent, and the answer is garbage or broke off: probably charged


#: Failures after which the provider may have charged; they settle by estimate and are never voided.
MAYBE_CHARGED = frozenset({FailureKind.TIMEOUT, FailureKind.BROKEN})


@dataclass(slots=True, eq=False)
class UpstreamError(Exception):
    """An upstream call that gave no usable answer.

    status: the HTTP status that the upstream sent; None when none came.
    vendor_code: the vendor's own code, such as ``REQUEST_LIMIT_EXCEEDED``.
    message: the vendor's text, for the client; holds no credentials.
    retry_after_s: what ``Retry-After`` said.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    vendor_code: str | None = None
    retry_after_s: float | None = None

    def __str__(self) -> str:
        return f"{self.kind.value}: {self.message}"
