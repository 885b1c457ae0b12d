"""HTTP to one endpoint, over pooled connections.

Failure policy: what matters about a failure is whether the provider can have got the request. Until its first byte
goes out, nothing can be charged (NOT_SENT). From then on a deadline is TIMEOUT and everything else BROKEN, also a
kept connection that the server closes without a word: it may have got the request all the same. Nothing is sent
twice here. Answers are read in pieces, decompressed ones too, and never beyond a limit.
"""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import aiohttp

from routing.adapters.sse import DONE, EventDecoder, EventTooLarge
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint

MAX_ANSWER_BYTES = 16 * 1024 * 1024
MAX_EVENT_BYTES = 4 * 1024 * 1024
#: Of an error's body; the rest is not read.
_MAX_REFUSAL_BYTES = 64 * 1024
_REFUSAL_S = 5.0
#: Below the smallest usual keep-alive of servers (5 s): a request on a connection that the server is just closing
#: is ambiguous, and ambiguity is charged.
_KEEP_ALIVE_S = 4.0
_DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A POST.

    deadline_s: by the running loop's clock; for the whole answer, or for a stream's first event.
    timeout_s: between two events of a stream.
    """

    url: str
    headers: Mapping[str, str]
    content: bytes
    deadline_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Reply:
    """A complete answer of any status. headers: names in any case. body: of a refusal, at most its first 64 KB."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def accepted(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300


@dataclass(slots=True)
class _Progress:
    """sent: the first byte of the request is going out."""

    sent: bool = False


class EventSource:
    """The body of a 200 as server-sent events. Its first byte has not been read yet."""

    def __init__(self, client: "HttpClient", response: aiohttp.ClientResponse, request: HttpRequest) -> None:
        self.headers: Mapping[str, str] = response.headers
        self._client = client
        self._response = response
        self._timeout_s = request.timeout_s
        self._first_deadline_s: float | None = request.deadline_s
        self._decoder = EventDecoder(MAX_EVENT_BYTES)
        self._closed = False

    async def next_payloads(self) -> list[bytes] | None:
        """The payloads of the next events, as soon as there is one; None at the end of the body.

        Raises:
            UpstreamError: TIMEOUT or BROKEN.
        """
        deadline_s = self._first_deadline_s or asyncio.get_running_loop().time() + self._timeout_s
        self._first_deadline_s = None
        with _sorted(self._client.name, _Progress(sent=True)):
            async with asyncio.timeout_at(deadline_s):
                return await self._read()

    async def _read(self) -> list[bytes] | None:
        while piece := await self._response.content.readany():
            try:
                payloads = self._decoder.feed(piece)
            except EventTooLarge:
                raise broken(f"an event of the stream is larger than {MAX_EVENT_BYTES} bytes") from None
            if payloads:
                return payloads
        # Some servers leave out the blank line after the end mark.
        return [DONE] if self._decoder.finish() == DONE else None

    def finish(self) -> None:
        """The stream has said its end mark: keep the connection for the next call, if the body ends now."""
        if not self._closed:
            self._closed = True
            self._client.drain(self._response)

    def close(self) -> None:
        """Drop the connection at once, without TLS's goodbye, so that the provider stops generating."""
        if not self._closed:
            self._closed = True
            abort(self._response)


class HttpClient:
    """One endpoint's connections. The session is made inside the running loop, with the first request."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._draining: set[asyncio.Task[None]] = set()

    async def post(self, request: HttpRequest) -> Reply:
        """Send and read the whole answer, whatever its status.

        Raises:
            UpstreamError: NOT_SENT, TIMEOUT or BROKEN.
        """
        response = await self._respond(request, "application/json", "gzip, deflate")
        try:
            if response.status >= 300:
                return await _read_refusal(response)
            with _sorted(self.name, _Progress(sent=True)):
                async with asyncio.timeout_at(request.deadline_s):
                    body = await _read_body(response)
            return Reply(response.status, response.headers, body)
        finally:
            _release(response)

    async def open(self, request: HttpRequest) -> Reply | EventSource:
        """Send and read up to the headers: a stream for a 2xx, a reply for any other status.

        Raises:
            UpstreamError: NOT_SENT, TIMEOUT or BROKEN.
        """
        # Compression would hold events back.
        response = await self._respond(request, "text/event-stream", "identity")
        if response.status < 300:
            return EventSource(self, response, request)
        try:
            return await _read_refusal(response)
        finally:
            _release(response)

    def drain(self, response: aiohttp.ClientResponse) -> None:
        """Read the little that is left of a body in the background, so that its connection can be used again."""
        if response.content.at_eof():
            response.release()
            return
        task = asyncio.create_task(_drain(response))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)

    async def close(self) -> None:
        """Close all connections."""
        for task in tuple(self._draining):
            task.cancel()
        await asyncio.gather(*self._draining, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _respond(self, request: HttpRequest, accept: str, encodings: str) -> aiohttp.ClientResponse:
        progress = _Progress()
        headers = {"Accept": accept, "Accept-Encoding": encodings, "User-Agent": "spendgate", **request.headers}
        with _sorted(self.name, progress):
            async with asyncio.timeout_at(request.deadline_s):
                return await self._open_session().post(
                    request.url,
                    data=request.content,
                    headers=headers,
                    allow_redirects=False,  # a redirect would carry our credentials elsewhere
                    trace_request_ctx=progress,
                )

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._endpoint.max_connections, keepalive_timeout=_KEEP_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, connect=self._endpoint.connect_timeout_s),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
            )
        return self._session


def broken(message: str) -> UpstreamError:
    """An answer came and is of no use; the provider has probably charged for it."""
    return UpstreamError(FailureKind.BROKEN, message)


def abort(response: aiohttp.ClientResponse) -> None:
    """Drop a response's connection at once, if it still has one."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _note_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


@contextlib.contextmanager
def _sorted(name: str, progress: _Progress) -> Iterator[None]:
    """Aiohttp's and the system's exceptions as `UpstreamError`."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        what = type(error).__name__
        if not progress.sent:
            message = f"no connection to the endpoint {name} ({what})"
            raise UpstreamError(FailureKind.NOT_SENT, message) from error
        if isinstance(error, TimeoutError):
            message = f"the endpoint {name} did not answer in time"
            raise UpstreamError(FailureKind.TIMEOUT, message) from error
        raise broken(f"the answer of the endpoint {name} broke off ({what})") from error


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    while piece := await response.content.readany():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise broken(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


async def _read_refusal(response: aiohttp.ClientResponse) -> Reply:
    """A refusal counts by its status, also when its body breaks off."""
    body = bytearray()
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with asyncio.timeout(_REFUSAL_S):
            while len(body) < _MAX_REFUSAL_BYTES and (piece := await response.content.readany()):
                body += piece
    return Reply(response.status, response.headers, bytes(body[:_MAX_REFUSAL_BYTES]))


def _release(response: aiohttp.ClientResponse) -> None:
    """Back to the pool if it was read to its end, otherwise drop it."""
    if response.content.at_eof():
        response.release()
    else:
        abort(response)


async def _drain(response: aiohttp.ClientResponse) -> None:
    try:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with asyncio.timeout(_DRAIN_S):
                await response.content.readany()  # nothing may follow the end mark but the end itself
    finally:
        _release(response)
