"""Any server with OpenAI's API: OpenAI itself, Azure's v1 API, vLLM, Ollama, and many more.

The endpoint's `base_url` includes the version, as the openai SDK's does (``https://api.openai.com/v1``).
The attempt's id goes along as ``X-Client-Request-Id``, which OpenAI records.
Source: https://platform.openai.com/docs/api-reference/debugging-requests
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from core.clock import Clock
from routing.adapters.http import EventSource, HttpClient, HttpRequest, Reply
from routing.adapters.openai_wire import (
    JSON_HEADERS,
    STREAMING_FIELDS,
    OpenAIStream,
    OptionalFields,
    call_lines,
    open_stream,
    read_answer,
    wire_body,
)
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall

_PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}


class OpenAICompatible:
    """An `Upstream` for one server. Without an api_key no Authorization is sent, as local servers like it."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._http = HttpClient(endpoint)
        self._optional = OptionalFields()
        self._heads: dict[tuple[str, bool], bytes] = {}

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """See `Upstream.send`."""
        body = wire_body(call)
        body["model"] = call.model.upstream_name
        return read_answer(await self._http.post(self._request(call, body, streaming=False)), self._clock)

    async def open_stream(self, call: UpstreamCall) -> OpenAIStream:
        """See `Upstream.open_stream`."""
        body = wire_body(call)
        body["model"] = call.model.upstream_name
        body["stream"] = True
        fields = self._optional.accepted(call.model.name, STREAMING_FIELDS)
        request = self._request(call, {**body, **fields}, streaming=True)
        got = await self._http.open(request)
        if isinstance(got, Reply) and fields:

            async def ask(full_body: Mapping[str, Any]) -> Reply | EventSource:
                return await self._http.open(replace(request, content=orjson.dumps(full_body)))

            got = await self._optional.without_refused(call.model.name, body, fields, got, ask)
        return open_stream(got, self._clock)

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._http.close()

    def _request(self, call: UpstreamCall, body: Mapping[str, Any], *, streaming: bool) -> HttpRequest:
        timeout_s = min(call.timeout_s, self._endpoint.timeout_s)
        deadline_s = self._http.now_s() + timeout_s
        head = self._heads.get((call.operation, streaming)) or self._make_head(call.operation, streaming)
        lines = call_lines(call, id_header="X-Client-Request-Id")
        return HttpRequest(head + lines, orjson.dumps(body), deadline_s, timeout_s)

    def _make_head(self, operation: str, streaming: bool) -> bytes:
        key = self._endpoint.api_key
        headers = JSON_HEADERS | ({"Authorization": f"Bearer {key}"} if key else {})
        head = self._http.head(_PATHS[operation], headers, streaming=streaming)
        self._heads[operation, streaming] = head
        return head
