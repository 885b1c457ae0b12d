"""Anthropic's Messages API: ``POST <base_url>/v1/messages``, chat only; `base_url` is ``https://api.anthropic.com``."""

from typing import Any

import orjson

from core.clock import Clock
from core.errors import ConfigError
from routing.adapters.anthropic_convert import from_anthropic, to_anthropic
from routing.adapters.anthropic_stream import StreamConverter
from routing.adapters.failures import refusal
from routing.adapters.http import EventSource, HttpClient, HttpRequest, Reply, broken
from routing.adapters.http_events import Drained, Take
from routing.adapters.openai_wire import JSON_HEADERS, call_lines, read_object
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall

_VERSION = "2023-06-01"


class Anthropic:
    """An `Upstream` for Anthropic, or a server with its API.

    Raises:
        ConfigError: the endpoint has no api_key.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        if not endpoint.api_key:
            raise ConfigError(f"endpoint {endpoint.name} needs an api_key")
        self._endpoint = endpoint
        self._api_key = endpoint.api_key
        self._clock = clock
        self._http = HttpClient(endpoint, endpoint.base_url.rstrip("/").removesuffix("/v1"))
        self._heads: dict[bool, bytes] = {}

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """See `Upstream.send`."""
        reply = await self._http.post(self._request(call, _convert(call), streaming=False))
        message = read_object(reply, self._clock)
        answer = from_anthropic(message, self._clock.now_ms() // 1000)
        return UpstreamAnswer(answer)

    async def open_stream(self, call: UpstreamCall) -> "AnthropicStream":
        """See `Upstream.open_stream`."""
        got = await self._http.open(self._request(call, _convert(call) | {"stream": True}, streaming=True))
        if isinstance(got, Reply):
            raise refusal(got, self._clock.now_ms())
        return AnthropicStream(got, StreamConverter(self._clock.now_ms() // 1000))

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._http.close()

    def _request(self, call: UpstreamCall, body: dict[str, Any], *, streaming: bool) -> HttpRequest:
        timeout_s = min(call.timeout_s, self._endpoint.timeout_s)
        deadline_s = self._http.now_s() + timeout_s
        head = self._heads.get(streaming)
        if head is None:
            headers = {"x-api-key": self._api_key, "anthropic-version": _VERSION, **JSON_HEADERS}
            head = self._heads[streaming] = self._http.head("/v1/messages", headers, streaming=streaming)
        return HttpRequest(head + call_lines(call), orjson.dumps(body), deadline_s, timeout_s)


class AnthropicStream:
    """An `UpstreamStream` over Anthropic's events."""

    def __init__(self, source: EventSource, converter: StreamConverter) -> None:
        self._source = source
        self._converter = converter

    async def pour(self, take: Take, drained: Drained) -> None:
        """OpenAI's chunks; see `UpstreamStream.pour`."""

        def convert(payloads: list[bytes]) -> bool:
            chunks: list[bytes] = []
            try:
                for payload in payloads:
                    chunks += map(orjson.dumps, self._converter.feed(payload))
                    if self._converter.ended:
                        self._source.finish()
                        break
            finally:
                more = take(chunks) if chunks else True
            return more

        await self._source.pour(convert, drained)
        if not self._converter.ended:
            raise broken("the stream ended without its end mark")

    async def close(self) -> None:
        """Drop the connection, unless the stream has ended."""
        self._source.close()


def _convert(call: UpstreamCall) -> dict[str, Any]:
    if call.operation != "chat":
        raise UpstreamError(FailureKind.REJECTED, f"Anthropic's models do not offer {call.operation}")
    return to_anthropic(call.body, call.model)
