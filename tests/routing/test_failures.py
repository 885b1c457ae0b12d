import json

import pytest

from routing.adapters.failures import clean_message, read_vendor_error, refusal, retry_after_s
from routing.adapters.http import Reply
from routing.errors import FailureKind

NOW_MS = 1_795_395_600_000  # 2026-11-23T01:00:00Z


def sort(status: int, body: object, headers: dict[str, str] | None = None):
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return refusal(Reply(status, headers or {}, raw), NOW_MS)


def databricks(message: str, code: str = "REQUEST_LIMIT_EXCEEDED") -> dict[str, str]:
    return {"error_code": code, "message": message}


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("REQUEST_LIMIT_EXCEEDED: Exceeded workspace QPS rate limit for databricks-dbrx-instruct.", "rate_limited"),
        ("Exceeded workspace output tokens per minute rate limit. Contact your administrator.", "rate_limited"),
        ("Too many requests. Please wait a moment and try again.", "rate_limited"),
        ("Exceeded user-defined rate limit for endpoint x.", "policy_limited"),
        ("User defined rate limit(s) exceeded for endpoint x", "policy_limited"),
        ("USER_DEFINED_RATE_LIMIT reached", "policy_limited"),
        ("The rate limit set by the endpoint owner was exceeded", "policy_limited"),
        ("Exceeded account daily spend limit for Foundation Model APIs.", "daily_limit"),
        ("Your account has hit its spending limit. It resets daily.", "daily_limit"),
        ("Daily account-level spend limit reached", "daily_limit"),
    ],
)
def test_the_three_kinds_of_databricks_429(message: str, kind: str) -> None:
    error = sort(429, databricks(message))
    assert error.kind.value == kind
    assert error.vendor_code == "REQUEST_LIMIT_EXCEEDED"
    assert error.status == 429


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("insufficient_quota", "You exceeded your current quota, please check your plan.", FailureKind.DAILY_LIMIT),
        ("billing_hard_limit_reached", "Billing hard limit has been reached", FailureKind.DAILY_LIMIT),
        ("rate_limit_exceeded", "Rate limit reached on requests per day (RPD): Limit 200", FailureKind.RATE_LIMITED),
    ],
)
def test_openais_429(code: str, message: str, kind: FailureKind) -> None:
    error = sort(429, {"error": {"message": message, "type": "requests", "param": None, "code": code}})
    assert (error.kind, error.vendor_code, error.message) == (kind, code, message)


@pytest.mark.parametrize(
    ("status", "kind", "error", "message"),
    [
        (429, FailureKind.RATE_LIMITED, "rate_limit_error", "slow down"),
        (529, FailureKind.UNAVAILABLE, "overloaded_error", "Overloaded"),
        (404, FailureKind.NOT_FOUND, "not_found_error", "model: claude-9"),
        (413, FailureKind.REJECTED, "request_too_large", "too large"),
        (400, FailureKind.DAILY_LIMIT, "invalid_request_error", "Your credit balance is too low to go on."),
    ],
)
def test_anthropics_errors(status: int, kind: FailureKind, error: str, message: str) -> None:
    sorted_error = sort(status, {"type": "error", "error": {"type": error, "message": message}})
    assert (sorted_error.kind, sorted_error.vendor_code, sorted_error.message) == (kind, error, message)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, FailureKind.NOT_FOUND),
        (400, FailureKind.REJECTED),
        (401, FailureKind.UNAUTHORIZED),
        (402, FailureKind.DAILY_LIMIT),
        (403, FailureKind.UNAUTHORIZED),
        (404, FailureKind.NOT_FOUND),
        (405, FailureKind.NOT_FOUND),
        (408, FailureKind.UNAVAILABLE),
        (410, FailureKind.NOT_FOUND),
        (413, FailureKind.REJECTED),
        (422, FailureKind.REJECTED),
        (429, FailureKind.RATE_LIMITED),
        (500, FailureKind.UNAVAILABLE),
        (502, FailureKind.UNAVAILABLE),
        (503, FailureKind.UNAVAILABLE),
        (504, FailureKind.TIMEOUT),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>oops</html>", b"[]", b'{"error": null}', b"\xff\xfe", b'{"error": 7}'])
def test_every_status_has_a_kind_whatever_its_body(status: int, kind: FailureKind, body: bytes) -> None:
    error = sort(status, body)
    assert error.kind is kind
    assert error.message


def test_a_400_that_quotes_the_caller_does_not_shut_a_model_for_the_day() -> None:
    said = databricks("Invalid content: 'explain our daily spend limit, insufficient_quota'", "INVALID_PARAMETER_VALUE")
    assert sort(400, said).kind is FailureKind.REJECTED


def test_other_shapes() -> None:
    assert read_vendor_error(b'{"error":"invalid_client","error_description":"who?"}').message == "who?"
    assert read_vendor_error(b'{"error":"invalid_client"}').code == "invalid_client"
    assert read_vendor_error(b'{"detail":"Not Found"}').message == "Not Found"
    assert read_vendor_error(b'{"error":{"code":429,"message":"m"}}').code == "429"


def test_a_vendors_text_carries_no_key_and_has_a_bound() -> None:
    said = {"error": {"message": "Incorrect API key provided: gsk_****WXYZ.", "code": "invalid_api_key"}}
    assert "WXYZ" not in sort(401, said).message
    text = clean_message("got Authorization: Bearer dapi0123456789abcdef and dapi0123456789abcdef, x" + "y" * 5000)
    assert "0123456789" not in text
    assert len(text) <= 1000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "12"}, 12.0),
        ({"Retry-After": " 1.5 "}, 1.5),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "1e9"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Mon, 23 Nov 2026 01:00:30 GMT"}, 30.0),
        ({"Retry-After": "Mon, 23 Nov 2026 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "Mon, 23 Nov 2026 09:00:30 GMT", "Date": "Mon, 23 Nov 2026 09:00:00 GMT"}, 30.0),
        ({"Retry-After": "Mon, 99 Nov 2026 09:00:30 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_s(headers, NOW_MS) == seconds
