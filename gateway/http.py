"""The little of HTTP that the hot routes need: limits on the way in, bytes on the way out."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

import orjson

from core.errors import BodyTooLarge, InvalidInput, SpendgateError
from core.values import value

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


class Client(Protocol):
    """Whoever waits for an answer. on_leave: called once when it goes away; set by whoever wants to know.

    task: that serves it, if it is known: to ask for the current one takes a system call.
    """

    task: "asyncio.Task[Any] | None"
    gone: bool
    on_leave: Callable[[], None] | None


class Answering(Protocol):
    """The way back to a client. An answer is given at once, or begun, written and ended. Nobody hears what is said to
    a client that is gone.
    """

    def answer(self, status: int, lines: str, body: bytes, *, close: bool = False) -> None:
        """A whole answer. lines: its headers, each with its end. close: the connection ends with it."""
        ...

    def begin(self, status: int, lines: str) -> None:
        """The head of an answer that comes in pieces."""
        ...

    def write(self, data: bytes) -> None:
        """A piece of it."""
        ...

    @property
    def full(self) -> bool:
        """The client has to take some of what was written before it is sent more."""
        ...

    async def drained(self) -> None:
        """Return once it has."""
        ...

    def end(self, data: bytes) -> None:
        """The last piece."""
        ...


class Interruptible:
    """What is awaited inside is interrupted when the client goes away, or a while after that.

    patience_s: how long it may still take then; 0: not at all.

    Raises:
        ClientGone: it was interrupted.
    """

    __slots__ = ("_client", "_interrupted", "_patience_s", "_task", "_timer")

    def __init__(self, client: Client | None, patience_s: float) -> None:
        self._client = client
        self._patience_s = patience_s
        self._interrupted = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> None:
        client = self._client
        if client is None:
            return
        if client.gone and self._patience_s <= 0:
            raise ClientGone
        self._task = client.task or asyncio.current_task()
        client.on_leave = self._left
        if client.gone:
            self._left()

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if self._client is not None:
            self._client.on_leave = None
        if self._timer is not None:
            self._timer.cancel()
        if not self._interrupted or self._task is None:
            return
        if self._task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):  # nobody else wants its end
            raise ClientGone from None

    def _left(self) -> None:
        if self._patience_s > 0:
            self._timer = asyncio.get_running_loop().call_later(self._patience_s, self._interrupt)
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._task is not None:
            self._interrupted = True
            self._task.cancel()


@value
class Limits:
    """What a request may be at most, in bytes, and how long its body may take to arrive."""

    body_bytes: int = 4 * 1024 * 1024
    header_bytes: int = 32 * 1024
    body_s: float = 60.0


#: The headers that anybody here asks for.
_KNOWN_HEADERS = {
    name.encode(): name
    for name in (
        *("authorization", "x-api-key", "x-budget-scope-type", "x-budget-scope-key", "x-budget-scopes"),
        *("content-length", "content-encoding", "idempotency-key", "traceparent", "helicone-signature"),
    )
}


def read_headers(pairs: Iterable[tuple[bytes, bytes]], limits: Limits) -> Headers:
    """The headers that are known here, by lower-case name; of a repeated one the first counts.

    Raises:
        HeadersTooLarge: all together, the unknown ones too, are over the limit.
    """
    total = 0
    headers: Headers = {}
    for raw_name, text in pairs:
        total += len(raw_name) + len(text)
        name = _KNOWN_HEADERS.get(raw_name)
        if name is not None and name not in headers:
            headers[name] = text.decode("latin-1")
    if total > limits.header_bytes:
        raise HeadersTooLarge(f"the headers are larger than {limits.header_bytes} bytes")
    return headers


async def read_body(headers: Headers, receive: Receive, limits: Limits, whole: bytes | None = None) -> bytes:
    """The whole body. whole: it is there already.

    Raises:
        BodyTooLarge: over the limit; nothing beyond it is kept.
        UnsupportedEncoding: compressed. InvalidInput: a Content-Length that is no number.
        RequestTimeout: it did not arrive in time.
        ClientGone: the client left.
    """
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedEncoding("Content-Encoding must be identity: compressed requests are not accepted")
    if whole is not None and len(whole) <= limits.body_bytes:
        return whole
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


def header_lines(headers: Headers) -> str:
    """Headers as lines.

    Raises:
        ValueError: a value holds a line break.
    """
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers):
        raise ValueError("a header holds a line break")
    return text
