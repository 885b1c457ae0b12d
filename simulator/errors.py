"""Refusals of the simulated endpoint, in Databricks' shape: ``{"error_code": ..., "message": ...}``.

The codes and statuses, and the text of the workspace rate limit, are what Databricks sends. The texts of the
two other kinds of 429 use its documentation's words ("user-defined rate limit", "daily spend limit"): their
exact wording is not documented, only that they differ.
"""

from simulator.faults import Fault, FaultKind


class CallError(Exception):
    """A call that is refused; nothing is billed for it.

    status: HTTP status. error_code: Databricks' code. retry_after_s: sent as ``Retry-After`` if not None.
    """

    def __init__(self, status: int, error_code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error_code = error_code
        self.message = message
        self.retry_after_s = retry_after_s


def invalid_parameter(message: str) -> CallError:
    """400: a field of the request has a value that the endpoint does not take."""
    return CallError(400, "INVALID_PARAMETER_VALUE", message)


def malformed(message: str) -> CallError:
    """400: the body is no JSON object."""
    return CallError(400, "MALFORMED_REQUEST", message)


def too_large(limit_bytes: int) -> CallError:
    """413: the body is over the endpoint's limit."""
    return CallError(413, "REQUEST_SIZE_LIMIT_EXCEEDED", f"Request size cannot exceed {limit_bytes} bytes.")


def unknown_endpoint(name: str) -> CallError:
    """404: no endpoint of this name, or a retired one."""
    text = "does not exist or has been retired, please retry after checking the specified model and version."
    return CallError(404, "RESOURCE_DOES_NOT_EXIST", f"The given endpoint {name} {text}")


def workspace_limit(name: str, limit: str, retry_after_s: int) -> CallError:
    """429: the workspace's rate limit (`limit` is ``QPS`` or ``tokens per minute``); waiting helps."""
    return _limit(
        f"Exceeded workspace {limit} rate limit for {name}. Please use a provisioned throughput "
        "Foundation Model APIs endpoint for a higher rate limit.",
        retry_after_s,
    )


def policy_limit(name: str, retry_after_s: int | None) -> CallError:
    """429: a rate limit that an administrator set on the endpoint."""
    return _limit(
        f"Exceeded user-defined rate limit for endpoint {name}. "
        "Contact the endpoint's administrator to raise the limit.",
        retry_after_s,
    )


def daily_limit() -> CallError:
    """429: the account's spend limit of the day; waiting does not help before midnight UTC."""
    text = "Exceeded account daily spend limit for Foundation Model APIs. It resets at 00:00 UTC."
    return _limit(text, None)


def unauthenticated(message: str) -> CallError:
    """401: no credentials, or an expired token."""
    return CallError(401, "UNAUTHENTICATED", message)


def forbidden(message: str) -> CallError:
    """403: credentials that are not known, or may not do this."""
    return CallError(403, "PERMISSION_DENIED", message)


def fault_error(fault: Fault, name: str) -> CallError | None:
    """The refusal that a fault stands for; None if the fault lets the call through in some other way."""
    match fault.kind:
        case FaultKind.RATE_LIMIT:
            return workspace_limit(name, "QPS", 1 if fault.retry_after_s is None else fault.retry_after_s)
        case FaultKind.POLICY_LIMIT:
            return policy_limit(name, fault.retry_after_s)
        case FaultKind.DAILY_LIMIT:
            return daily_limit()
        case FaultKind.INVALID_PARAMETER:
            return invalid_parameter("A parameter has a value that is not supported by this endpoint.")
        case FaultKind.NOT_FOUND:
            return unknown_endpoint(name)
        case FaultKind.UNAUTHORIZED:
            return unauthenticated("Token is expired.")
        case FaultKind.FORBIDDEN:
            return forbidden(f"PERMISSION_DENIED: User does not have permission to query endpoint {name}.")
        case _:
            return _server_error(fault, name)


def _server_error(fault: Fault, name: str) -> CallError | None:
    match fault.kind:
        case FaultKind.UNAVAILABLE:
            text = f"The service at {name} is temporarily unavailable. Please try again later."
            return CallError(503, "TEMPORARILY_UNAVAILABLE", text, fault.retry_after_s)
        case FaultKind.DEADLINE:
            return CallError(504, "DEADLINE_EXCEEDED", f"The request to {name} exceeded its deadline.")
        case FaultKind.INTERNAL:
            return CallError(500, "INTERNAL_ERROR", "An internal error occurred. Please try again.")
        case _:
            return None


def _limit(text: str, retry_after_s: int | None) -> CallError:
    return CallError(429, "REQUEST_LIMIT_EXCEEDED", f"REQUEST_LIMIT_EXCEEDED: {text}", retry_after_s)
