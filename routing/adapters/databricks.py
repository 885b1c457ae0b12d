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
from routing.adapters.http import HttpClient, HttpRequest, Reply, header_lines
from routing.adapters.openai_wire import (
    JSON_HEADERS,
    STREAMING_FIELDS,
    Got,
    OpenAIStream,
    OptionalFields,
    call_lines,
    open_stream,
    read_answer,
    wire_body,
)
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall

Exchange = Callable[[HttpRequest], Awaitable[Got]]


def workspace_url(base_url: str) -> str:
    """The workspace's host from any of the forms that people paste: with a slash, or with /serving-endpoints."""
    return base_url.rstrip("/").removesuffix("/serving-endpoints").rstrip("/")


class Databricks:
    """An `Upstream` for one workspace."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._http = HttpClient(endpoint, workspace_url(endpoint.base_url))
        self._credentials = credentials_of(endpoint, self._http, clock)
        self._optional = OptionalFields()
        self._heads: dict[tuple[str, bool], bytes] = {}
        self._shown: tuple[str, bytes] = ("", b"")  # the last token, and its header

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """See `Upstream.send`."""
        return read_answer(await self._ask(call, wire_body(call), _extras(call), self._http.post), self._clock)

    async def open_stream(self, call: UpstreamCall) -> OpenAIStream:
        """See `Upstream.open_stream`."""
        body = wire_body(call)
        body["stream"] = True
        got = await self._ask(call, body, _extras(call) | STREAMING_FIELDS, self._http.open)
        return open_stream(got, self._clock)

    async def close(self) -> None:
        """See `Upstream.close`."""
        await self._credentials.close()
        await self._http.close()

    async def _ask(
        self, call: UpstreamCall, body: dict[str, Any], optional: dict[str, Any], exchange: Exchange[Got]
    ) -> Got:
        """Ask with the fields that the model takes; if it turns out not to take one, again without it."""
        timeout_s = min(call.timeout_s, self._endpoint.timeout_s)
        deadline_s = self._http.now_s() + timeout_s
        fields = self._optional.accepted(call.model.name, optional)
        got = await self._authorized(call, {**body, **fields}, deadline_s, timeout_s, exchange)
        if not isinstance(got, Reply) or got.accepted:
            return got

        async def ask(full_body: Mapping[str, Any]) -> Got:
            return await self._authorized(call, full_body, deadline_s, timeout_s, exchange)

        return await self._optional.without_refused(call.model.name, body, fields, got, ask)

    async def _authorized(
        self, call: UpstreamCall, body: Mapping[str, Any], deadline_s: float, timeout_s: float, exchange: Exchange[Got]
    ) -> Got:
        """One exchange; after a 401, once more with a new token if there can be one."""
        token = self._credentials.ready() or await self._bearer(deadline_s)
        head, content = self._head(call, "stream" in body), orjson.dumps(body)
        got = await exchange(HttpRequest(head + self._show(token), content, deadline_s, timeout_s))
        if not (isinstance(got, Reply) and got.status == 401 and self._credentials.refused(token)):
            return got
        token = await self._bearer(deadline_s)
        return await exchange(HttpRequest(head + self._show(token), content, deadline_s, timeout_s))

    async def _bearer(self, deadline_s: float) -> str:
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._credentials.bearer()
        except TimeoutError:
            raise UpstreamError(FailureKind.NOT_SENT, "no OAuth token could be had in time") from None

    def _head(self, call: UpstreamCall, streaming: bool) -> bytes:
        name = call.model.upstream_name
        head = self._heads.get((name, streaming))
        if head is None:
            path = f"/serving-endpoints/{quote(name, safe='')}/invocations"
            head = self._heads[name, streaming] = self._http.head(path, JSON_HEADERS, streaming=streaming)
        return head + call_lines(call)

    def _show(self, token: str) -> bytes:
        """The token's header, made once for each token."""
        if self._shown[0] != token:
            self._shown = (token, header_lines({"Authorization": f"Bearer {token}"}))
        return self._shown[1]


def _extras(call: UpstreamCall) -> dict[str, Any]:
    """What Databricks records with the call's usage; a caller's own context is kept beside ours."""
    own = call.body.get("usage_context")
    context = {**(own if isinstance(own, dict) else {}), **call.usage_context}
    extras: dict[str, Any] = {"client_request_id": call.attempt_id}
    if context:
        extras["usage_context"] = context
    return extras
