"""The little of HTTP that the hot routes need, straight on ASGI: limits on the way in, bytes on the way out."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import orjson

from core.errors import BodyTooLarge, InvalidInput, SpendgateError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = dict[str, str]

_MAX_NESTING = 64
_MAX_DISCARDED_BYTES = 64 * 1024 * 1024
_DISCARD_S = 10.0


class HeadersTooLarge(SpendgateError):
    """The request's headers are over the limit."""

    status = 431
    code = "headers_too_large"


class UnsupportedEncoding(SpendgateError):
    """The request is compressed."""

    status = 415
    code = "unsupported_encoding"


class RequestTimeout(SpendgateError):
    """The request did not arrive in time."""

    status = 408
    code = "request_timeout"


class ClientGone(Exception):
    """The client closed the connection before its request, or the answer to it, was complete."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may be at most, in bytes, and how long its body may take to arrive."""

    body_bytes: int = 4 * 1024 * 1024
    header_bytes: int = 32 * 1024
    body_s: float = 60.0


def read_headers(scope: Scope, limits: Limits) -> Headers:
    """Headers by lower-case name; of a repeated one the first counts.

    Raises:
        HeadersTooLarge: all together are over the limit.
    """
    pairs: Iterable[tuple[bytes, bytes]] = scope["headers"]
    total = 0
    headers: Headers = {}
    for name, value in pairs:
        total += len(name) + len(value)
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
    if total > limits.header_bytes:
        raise HeadersTooLarge(f"the headers are larger than {limits.header_bytes} bytes")
    return headers


async def read_body(headers: Headers, receive: Receive, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        BodyTooLarge: over the limit; nothing beyond it is kept.
        UnsupportedEncoding: compressed. InvalidInput: a Content-Length that is no number.
        RequestTimeout: it did not arrive in time.
        ClientGone: the client left.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding("Content-Encoding must be identity: compressed requests are not accepted")
    length = headers.get("content-length", "0")
    if not length.isdigit():
        raise InvalidInput("Content-Length", "must be a number")
    if int(length) > limits.body_bytes:
        await _discard(receive)
        raise BodyTooLarge(f"the body is larger than {limits.body_bytes} bytes")
    try:
        async with asyncio.timeout(limits.body_s):
            body = await _read_body(receive, limits.body_bytes)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {limits.body_s:g} s") from None
    if body is None:
        await _discard(receive)
        raise BodyTooLarge(f"the body is larger than {limits.body_bytes} bytes")
    return body


async def _read_body(receive: Receive, most_bytes: int) -> bytes | None:
    """The body; None: it is larger."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most_bytes:
            return None
        if not message.get("more_body"):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _discard(receive: Receive) -> None:
    """Read on for a while without keeping anything: a client that is still sending would not hear the answer."""
    left = _MAX_DISCARDED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


def read_json_object(raw: bytes) -> dict[str, Any]:
    """A JSON object that is not nested too deeply.

    Raises:
        InvalidInput: field ``body``, with the rule.
    """
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("body", f"must be JSON: {error.msg} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise InvalidInput("body", "must be a JSON object")
    # Few brackets can't nest deeply, and counting them is much cheaper than walking.
    if raw.count(b"{") + raw.count(b"[") > _MAX_NESTING and _deeper_than(value, _MAX_NESTING):
        raise InvalidInput("body", f"must not be nested deeper than {_MAX_NESTING} levels")
    return value


def _deeper_than(value: object, levels: int) -> bool:
    level: list[object] = [value]
    for _ in range(levels):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, (dict, list)) for item in level)


def encode_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers for ASGI; what is not Latin-1 is replaced, so that a scope's name can't break an answer."""
    return [(k.lower().encode("latin-1"), v.encode("latin-1", "replace")) for k, v in headers.items()]


async def respond(send: Send, status: int, body: bytes, headers: Headers, media_type: str = "application/json") -> None:
    """A complete answer."""
    head = encode_headers({"content-type": media_type, "content-length": str(len(body)), **headers})
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
