"""Errors of this surface: one envelope, ``{"error": {"type", "code", "message", "field"?}}``."""

from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from core.errors import Conflict, InvalidInput, NotFound, SpendgateError, StoreUnavailable

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    412: "conflict_error",
}
_CODES = {404: NotFound.code, 405: "method_not_allowed"}


class Stale(Conflict):
    """The caller's ``If-Match`` is not the revision that the thing has now."""

    status = 412
    code = "precondition_failed"


class OrjsonResponse(JSONResponse):
    """JSON through orjson, so that money can be written from integers (`orjson.Fragment`)."""

    def render(self, content: Any) -> bytes:
        """The body's bytes."""
        return orjson.dumps(content)


def error_response(error: SpendgateError) -> JSONResponse:
    """The answer to a business error: its status, the envelope, and the headers that its status asks for."""
    field = error.field if isinstance(error, InvalidInput) else None
    headers = {}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, StoreUnavailable):
        headers["Retry-After"] = str(error.retry_after_s)
    return _envelope(error.status, error.code, error.message, field, headers)


def install_errors(app: FastAPI) -> None:
    """Answer business errors, FastAPI's own validation and 404/405 of this app in the envelope."""
    app.add_exception_handler(SpendgateError, _on_business_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def _on_business_error(_: Request, error: Exception) -> Response:
    return error_response(cast(SpendgateError, error))


async def _on_validation_error(_: Request, error: Exception) -> Response:
    first = cast(RequestValidationError, error).errors()[0]
    place = [str(part) for part in first["loc"]]  # ("query", "limit"): where, then what
    return error_response(InvalidInput(".".join(place[1:] or place), f"is not valid: {first['msg']}"))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    known = cast(HTTPException, error)
    code = _CODES.get(known.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {known.detail}"
    return _envelope(known.status_code, code, message, None, dict(known.headers or {}))


def _envelope(status: int, code: str, message: str, field: str | None, headers: dict[str, str]) -> JSONResponse:
    kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    error = {"type": kind, "code": code, "message": message}
    if field is not None:
        error["field"] = field
    return OrjsonResponse({"error": error}, status_code=status, headers=headers)
