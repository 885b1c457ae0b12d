"""Databricks model serving: foundation models, provisioned and custom endpoints, chat and embeddings.

``POST <host>/serving-endpoints/<name>/invocations``. What is sent along: `client_request_id` and `usage_context`,
which Databricks keeps in its usage tables, so that its bill can be reconciled with ours call by call. Not every
model takes them, or `stream_options`; see `OptionalFields`.
Source: https://docs.databricks.com/aws/en/machine-learning/foundation-model-apis/api-reference
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote

import orjson

from core.clock import Clock
from routing.adapters.databricks_auth import credentials_of
from routing.adapters.http import HttpClient, HttpRequest, Reply
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
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall


def workspace_url(base_url: str) -> str:
    """The workspace's host from any of the forms that people paste: with a slash, or with /serving-endpoints."""
    return base_url.rstrip("/").removesuffix("/serving-endpoints").rstrip("/")


class Databricks:
    """An `Upstream` for one workspace."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._http = HttpClient(endpoint)
        self._host_url = workspace_url(endpoint.base_url)
        self._credentials = credentials_of(endpoint, self._host_url, self._http, clock)
        self._optional = OptionalFields()

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """See `Upstream.send`."""
        reply = await self._ask(call, wire_body(call), _extras(call), self._http.post)
        return read_answer(reply, self._clock)

    async def open_stream(self, call: UpstreamCall) -> OpenAIStream:
        """See `Upstream.open_stream`."""
        body = {**wire_body(call), "stream": True}
        got = await self._ask(call, body, _extras(call) | streaming_fields(), self._http.open)
        return open_stream(got, self._clock)

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._credentials.close()
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
        name = quote(call.model.upstream_name, safe="")
        url = f"{self._host_url}/serving-endpoints/{name}/invocations"

        async def ask(full_body: dict[str, Any]) -> Got:
            content = orjson.dumps(full_body)

            async def with_token(token: str) -> Got:
                headers = {"Authorization": f"Bearer {token}", **call_headers(call)}
                return await exchange(HttpRequest(url, headers, content, deadline_s, timeout_s))

            return await self._authorized(with_token, deadline_s)

        return await self._optional.ask(call.model.name, body, optional, ask)

    async def _authorized(self, exchange: Callable[[str], Awaitable[Got]], deadline_s: float) -> Got:
        """One exchange; after a 401, once more with a new token if there can be one."""
        token = await self._bearer(deadline_s)
        got = await exchange(token)
        if not (isinstance(got, Reply) and got.status == 401 and self._credentials.refused(token)):
            return got
        return await exchange(await self._bearer(deadline_s))

    async def _bearer(self, deadline_s: float) -> str:
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._credentials.bearer()
        except TimeoutError:
            raise UpstreamError(FailureKind.NOT_SENT, "no OAuth token could be had in time") from None


def _extras(call: UpstreamCall) -> dict[str, Any]:
    """What Databricks records with the call's usage; a caller's own context is kept beside ours."""
    own = call.body.get("usage_context")
    context = {**(own if isinstance(own, dict) else {}), **call.usage_context}
    extras: dict[str, Any] = {"client_request_id": call.attempt_id}
    if context:
        extras["usage_context"] = context
    return extras
