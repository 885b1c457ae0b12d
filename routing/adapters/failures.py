"""From a provider's refusal to what the flow has to do about it. Pure.

Understood shapes: Databricks ``{"error_code", "message"}``, OpenAI ``{"error": {"message", "type", "code"}}``,
Anthropic ``{"type": "error", "error": {"type", "message"}}``, OAuth ``{"error", "error_description"}``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

from routing.adapters.http import Reply
from routing.errors import FailureKind, UpstreamError

_MAX_MESSAGE_CHARS = 1000
_SECONDS = re.compile(r"\d{1,9}(\.\d{1,9})?")
#: What could be a credential in a vendor's text; some echo the key that they refuse.
_CREDENTIAL = re.compile(r"(?i:bearer|basic)\s+[\w.~+/=*-]{8,}|\b(?:sk-|dapi|dose|key-)[\w*-]{6,}|\beyJ[\w-]+\.[\w.-]+")
#: No money left, whatever the vendor calls it. Databricks: "account daily spend limit" (its documentation's words);
#: OpenAI: `insufficient_quota`, `billing_hard_limit_reached`.
_NO_MONEY = re.compile(
    r"insufficient[_ ](?:quota|balance|credit)|billing_hard_limit"
    r"|\bspend(?:ing)?[\s_-]+(?:limit|cap|quota|budget)|\bdaily\b.{0,60}\bspend|\bspend.{0,60}\bdaily\b"
)
#: The one such refusal with status 400. Texts of a 400 may quote the caller, so nothing looser is looked for there.
_NO_CREDIT = "your credit balance is too low"
#: A rate limit that a person set. Databricks: "user-defined rate limit" (its documentation's words).
_POLICY = re.compile(
    r"user[\s_-]*(?:defined|specified|configured)|custom[\s_-]+rate[\s_-]*limit"
    r"|(?:set|defined|configured|imposed) by (?:an? |the |your )?(?:\w+ )?(?:admin|owner)"
)


@dataclass(frozen=True, slots=True)
class VendorError:
    """What a refusal says. code: the most telling of the vendor's codes, or None. text: all of it, lower case."""

    code: str | None
    message: str
    text: str


def read_vendor_error(body: bytes) -> VendorError:
    """The error in a body; one that has no known shape is an error without code and message."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        data = None
    if not isinstance(data, dict):
        return VendorError(None, "", body.decode("utf-8", "replace").lower())
    error = data.get("error")
    inner: Mapping[str, Any] = error if isinstance(error, dict) else data
    named = error if isinstance(error, str) else None
    codes = [inner.get("error_code"), inner.get("code"), named, inner.get("type")]
    codes_text = [str(c) for c in codes if isinstance(c, str | int) and not isinstance(c, bool) and c != ""]
    messages = [inner.get("message"), data.get("error_description"), data.get("detail"), named]
    message = next((m for m in messages if isinstance(m, str) and m), "")
    return VendorError(next(iter(codes_text), None), message, " ".join([*codes_text, message]).lower())


def kind_of(status: int, text: str) -> FailureKind:
    """What a status that is not 2xx means; `text` is the vendor's, lower case."""
    if status == 402 or (status == 400 and _NO_CREDIT in text):
        return FailureKind.DAILY_LIMIT
    if status == 429:
        if _NO_MONEY.search(text):
            return FailureKind.DAILY_LIMIT
        return FailureKind.POLICY_LIMITED if _POLICY.search(text) else FailureKind.RATE_LIMITED
    if status in (401, 403):
        return FailureKind.UNAUTHORIZED
    if status in (404, 405, 410) or status < 400:  # a redirect: the address is wrong
        return FailureKind.NOT_FOUND
    if status == 504:  # the provider worked until its own deadline; whether it charges, it does not say
        return FailureKind.TIMEOUT
    if status in (408, 409, 425) or status >= 500:  # 529 is Anthropic's overloaded_error
        return FailureKind.UNAVAILABLE
    return FailureKind.REJECTED


def refusal(reply: Reply, now_ms: int) -> UpstreamError:
    """The failure that a reply with a status other than 2xx is. now_ms: epoch, to read a ``Retry-After`` date."""
    said = read_vendor_error(reply.body)
    kind = kind_of(reply.status, said.text)
    if kind is FailureKind.UNAUTHORIZED:  # a vendor's text may hold part of the key
        message = f"the provider refuses our credentials (status {reply.status})"
    else:
        message = clean_message(said.message) or f"the provider answered with status {reply.status}"
    return UpstreamError(kind, message, reply.status, said.code, retry_after_s(reply.headers, now_ms))


def clean_message(text: str) -> str:
    """A vendor's text, bounded and without anything that looks like a credential."""
    return _CREDENTIAL.sub("***", text[:_MAX_MESSAGE_CHARS]).strip()


def retry_after_s(headers: Mapping[str, str], now_ms: int) -> float | None:
    """``Retry-After`` in seconds or as an HTTP date (RFC 9110, section 10.2.3); None if absent or nonsense.

    A date is compared with the answer's own ``Date``, if it has one: the provider's clock, not ours.
    """
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    until_s, now_s = _date_s(value), _date_s(headers.get("Date", ""))
    if until_s is None:
        return None
    return max(0.0, until_s - (now_ms / 1000 if now_s is None else now_s))


def _date_s(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None
