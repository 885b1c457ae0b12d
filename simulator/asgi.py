"""The little of ASGI and HTTP that the simulator needs; a framework would cost more than the call."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import orjson

from simulator.errors import CallError, malformed, too_large

AsgiScope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
AsgiApp = Callable[[AsgiScope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_JSON = (b"content-type", b"application/json")


class ClientGone(Exception):
    """The client closed the connection before its request was complete."""


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit_bytes: int) -> bytes:
    """The whole body.

    Raises:
        CallError: 413, over `limit_bytes`.
        ClientGone: it did not all arrive.
    """
    declared = headers.get(b"content-length", b"0")
    if declared.isdigit() and int(declared) > limit_bytes:
        raise too_large(limit_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message["body"]
    else:
        body = await _read_parts(message, receive, limit_bytes)
    if len(body) > limit_bytes:
        raise too_large(limit_bytes)
    return body


async def _read_parts(message: MutableMapping[str, Any], receive: Receive, limit_bytes: int) -> bytes:
    parts = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts += message.get("body", b"")
        if len(parts) > limit_bytes:
            raise too_large(limit_bytes)
        if not message.get("more_body"):
            return bytes(parts)
        message = await receive()


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CallError: 400, it is no JSON or no object.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise malformed(f"Invalid JSON in the request body: {error}") from None
    if not isinstance(value, dict):
        raise malformed("The request body must be a JSON object.")
    return value


async def until_closed(receive: Receive) -> None:
    """Return once the client has closed the connection (or the answer is complete)."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_bytes(send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    """A complete JSON answer from its bytes."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *(headers or ())]})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: object, headers: Headers | None = None) -> None:
    """A complete JSON answer."""
    await send_bytes(send, status, orjson.dumps(value), headers)


async def send_error(send: Send, error: CallError, headers: Headers | None = None) -> None:
    """A refusal in Databricks' shape."""
    extra = list(headers or ())
    if error.retry_after_s is not None:
        extra.append((b"retry-after", b"%d" % error.retry_after_s))
    await send_json(send, error.status, {"error_code": error.error_code, "message": error.message}, extra)
