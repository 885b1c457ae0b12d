"""What all HTTP adapters share: one pooled session per endpoint, bounded answers, failures sorted by kind.

Failure policy: a failure before the request can have reached the provider is NOT_SENT and free; one after that is
TIMEOUT or BROKEN, and somebody else decides what it costs. Nothing is retried here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import orjson

from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 4 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_MAX_MESSAGE_CHARS = 500


class HttpEndpoint:
    """An endpoint's connections. The session is made on first use, inside the running loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close pooled connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> dict[str, Any]:
        """POST and read the whole answer as a JSON object.

        Raises:
            UpstreamError: any failure.
        """
        try:
            async with asyncio.timeout(min(timeout_s, self.endpoint.timeout_s)):
                response = await self._open(url, headers, body)
                async with response:
                    raw = await _read_bounded(response, MAX_ANSWER_BYTES)
        except TimeoutError:
            raise UpstreamError(FailureKind.TIMEOUT, f"no complete answer within {timeout_s:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(FailureKind.BROKEN, f"the answer broke off: {type(error).__name__}") from error
        return json_object(raw)

    async def open_stream(
        self, url: str, headers: Mapping[str, str], body: bytes, timeout_s: float
    ) -> aiohttp.ClientResponse:
        """POST and read no further than the status line, which is a success.

        Raises:
            UpstreamError: any failure.
        """
        try:
            async with asyncio.timeout(min(timeout_s, self.endpoint.timeout_s)):
                return await self._open(url, headers, body)
        except TimeoutError:
            raise UpstreamError(FailureKind.TIMEOUT, f"no answer within {timeout_s:.0f} s") from None

    async def _open(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        try:
            response = await self._pool().post(url, headers=headers, data=body, allow_redirects=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UpstreamError(FailureKind.NOT_SENT, f"no connection: {type(error).__name__}") from error
        except aiohttp.InvalidURL as error:
            raise UpstreamError(FailureKind.NOT_SENT, "the endpoint's URL is not valid") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(FailureKind.BROKEN, f"no answer: {type(error).__name__}") from error
        if 200 <= response.status < 300:
            return response
        async with response:
            try:
                raw = await _read_bounded(response, _MAX_ERROR_BYTES)
            except (aiohttp.ClientError, OSError, UpstreamError):
                raw = b""
        raise failure(response.status, raw, response.headers.get("Retry-After"))

    def _pool(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self.endpoint.max_connections, keepalive_timeout=60),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.endpoint.connect_timeout_s),
                headers={"Content-Type": "application/json", "User-Agent": "spendgate"},
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=256 * 1024,
            )
        return self._session


class SseStream:
    """``data:`` payloads of an event stream, one by one, as they come. timeout_s: between two events."""

    def __init__(self, response: aiohttp.ClientResponse, timeout_s: float) -> None:
        self._response = response
        self._timeout_s = timeout_s

    async def payloads(self) -> AsyncIterator[bytes]:
        """Payloads without their prefix, the end mark ``[DONE]`` included, until the connection ends.

        Raises:
            UpstreamError: TIMEOUT between two events; BROKEN on a broken connection or an endless event.
        """
        buffer = b""
        while True:
            chunk = await self._next_chunk()
            if not chunk:
                return
            *lines, buffer = (buffer + chunk).split(b"\n")
            if len(buffer) > MAX_EVENT_BYTES:
                raise UpstreamError(FailureKind.BROKEN, "an event of the stream has no end")
            for line in lines:
                if line.startswith(b"data:"):
                    yield line[5:].strip()

    async def _next_chunk(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._response.content.readany()
        except TimeoutError:
            message = f"the stream stalled for {self._timeout_s:.0f} s"
            raise UpstreamError(FailureKind.TIMEOUT, message) from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamError(FailureKind.BROKEN, f"the stream broke off: {type(error).__name__}") from error

    async def close(self) -> None:
        """Drop the connection, so that the provider stops."""
        self._response.close()


class OpenAIStream:
    """`routing.upstream.UpstreamStream` over an OpenAI-shaped event stream."""

    def __init__(self, response: aiohttp.ClientResponse, timeout_s: float) -> None:
        self._sse = SseStream(response, timeout_s)

    async def events(self) -> AsyncIterator[bytes]:
        """Payloads up to ``[DONE]``; a stream that ends without it is broken."""
        async for payload in self._sse.payloads():
            if payload == b"[DONE]":
                return
            if payload.startswith(b'{"error"'):
                raise UpstreamError(FailureKind.BROKEN, message_of(_loads(payload)) or "the stream reports an error")
            yield payload
        raise UpstreamError(FailureKind.BROKEN, "the stream ended without its end mark")

    async def close(self) -> None:
        """Drop the connection."""
        await self._sse.close()


async def _read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, decompressed, never more than `limit` bytes of it in memory."""
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            response.close()
            raise UpstreamError(FailureKind.BROKEN, f"the answer is larger than {limit} bytes")
    return b"".join(chunks)


def json_object(raw: bytes) -> dict[str, Any]:
    """A 2xx body as a JSON object.

    Raises:
        UpstreamError: BROKEN, it is none.
    """
    data = _loads(raw)
    if not isinstance(data, dict):
        raise UpstreamError(FailureKind.BROKEN, "the answer is not a JSON object")
    return data


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None


def failure(status: int, raw: bytes, retry_after: str | None) -> UpstreamError:
    """A status that is no success, sorted. Understands Databricks', OpenAI's and Anthropic's error bodies."""
    data = _loads(raw)
    message = message_of(data) or f"HTTP {status}"
    code = _code_of(data)
    kind = _kind(status, code or "", message.lower())
    return UpstreamError(kind, message[:_MAX_MESSAGE_CHARS], status, code, _retry_after_s(retry_after))


def message_of(data: object) -> str | None:
    """The text of an error body, in whichever envelope."""
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    for holder in (error, data):
        if isinstance(holder, dict) and isinstance(holder.get("message"), str):
            return str(holder["message"])
    return error if isinstance(error, str) else None


def _code_of(data: object) -> str | None:
    if not isinstance(data, dict):
        return None
    error = data.get("error")
    inner = error if isinstance(error, dict) else {}
    for value in (data.get("error_code"), inner.get("code"), inner.get("type")):
        if isinstance(value, str) and value:
            return value
    return None


def _kind(status: int, code: str, text: str) -> FailureKind:
    """Databricks' three kinds of 429 differ in their text alone; OpenAI's spent quota has a code of its own."""
    if status == 429:
        if code == "insufficient_quota" or "daily" in text or "spend limit" in text:
            return FailureKind.DAILY_LIMIT
        if "user-defined" in text or "user defined" in text or "endpoint rate limit" in text:
            return FailureKind.POLICY_LIMITED
        return FailureKind.RATE_LIMITED
    if status in (401, 403):
        return FailureKind.UNAUTHORIZED
    if status in (404, 410):
        return FailureKind.NOT_FOUND
    if status == 408 or status >= 500:
        # 504: the provider worked until its own deadline; whether it charges, it does not say.
        return FailureKind.TIMEOUT if status == 504 else FailureKind.UNAVAILABLE
    return FailureKind.REJECTED if 400 <= status < 500 else FailureKind.BROKEN


def _retry_after_s(text: str | None) -> float | None:
    """Seconds or an HTTP date (RFC 9110, section 10.2.3); None if it is neither."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
