"""Any server with OpenAI's API: OpenAI itself, Azure's v1 API, vLLM, Ollama, and many more.

The endpoint's `base_url` includes the version, as the openai SDK's does (``https://api.openai.com/v1``).
The attempt's id goes along as ``X-Client-Request-Id``, which OpenAI records.
Source: https://platform.openai.com/docs/api-reference/debugging-requests
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from core.clock import Clock
from routing.adapters.http import HttpClient, HttpRequest
from routing.adapters.openai_wire import (
    Got,
    OpenAIStream,
    OptionalFields,
    call_headers,
    open_stream,
    read_answer,
    streaming_fields,
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
        self._base_url = endpoint.base_url.rstrip("/")
        self._optional = OptionalFields()

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """See `Upstream.send`."""
        reply = await self._ask(call, wire_body(call), {}, self._http.post)
        return read_answer(reply, self._clock)

    async def open_stream(self, call: UpstreamCall) -> OpenAIStream:
        """See `Upstream.open_stream`."""
        got = await self._ask(call, {**wire_body(call), "stream": True}, streaming_fields(), self._http.open)
        return open_stream(got, self._clock)

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._http.close()

    async def _ask(
        self,
        call: UpstreamCall,
        body: Mapping[str, Any],
        optional: Mapping[str, Any],
        exchange: Callable[[HttpRequest], Awaitable[Got]],
    ) -> Got:
        timeout_s = min(call.timeout_s, self._endpoint.timeout_s)
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        url = self._base_url + _PATHS[call.operation]
        headers = self._headers(call)
        named = {"model": call.model.upstream_name, **body}

        async def ask(full_body: dict[str, Any]) -> Got:
            return await exchange(HttpRequest(url, headers, orjson.dumps(full_body), deadline_s, timeout_s))

        return await self._optional.ask(call.model.name, named, optional, ask)

    def _headers(self, call: UpstreamCall) -> dict[str, str]:
        headers = {"X-Client-Request-Id": call.attempt_id, **call_headers(call)}
        if self._endpoint.api_key:
            headers["Authorization"] = f"Bearer {self._endpoint.api_key}"
        return headers
