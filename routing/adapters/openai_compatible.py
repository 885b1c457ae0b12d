"""Any server that speaks OpenAI's API, and the base of Databricks', which does in all but path and credentials."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import orjson

from core.ids import id_to_uuid
from routing.adapters.http import HttpEndpoint, OpenAIStream
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall, UpstreamStream

T = TypeVar("T")

_PATHS = {"chat": "/chat/completions", "embeddings": "/embeddings"}


class OpenAICompatible:
    """`routing.upstream.Upstream` for OpenAI-shaped servers; `base_url` as their SDK takes it, with ``/v1``.

    A server that does not know one of our own fields answers 400 naming it; the call is sent again without, and the
    field is left out for that model from then on.
    """

    #: Fields of ours that a server may refuse; sent until it does.
    optional_fields: tuple[str, ...] = ("stream_options",)

    def __init__(self, endpoint: Endpoint) -> None:
        self.http = HttpEndpoint(endpoint)
        self.endpoint = endpoint
        self._refused: dict[str, set[str]] = {}

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """A call that is answered at once."""

        async def post(body: bytes) -> dict[str, Any]:
            return await self.http.post(self.url(call), await self.headers(call), body, call.timeout_s)

        data = await self._without_refused(call, post, stream=False)
        provider_id = data.get("id")
        return UpstreamAnswer(data, provider_id if isinstance(provider_id, str) else None)

    async def open_stream(self, call: UpstreamCall) -> UpstreamStream:
        """A call that is answered in a stream."""

        async def post(body: bytes) -> OpenAIStream:
            response = await self.http.open_stream(self.url(call), await self.headers(call), body, call.timeout_s)
            return OpenAIStream(response, min(call.timeout_s, self.endpoint.timeout_s))

        return await self._without_refused(call, post, stream=True)

    async def close(self) -> None:
        """Close pooled connections."""
        await self.http.close()

    def url(self, call: UpstreamCall) -> str:
        """Where the call goes."""
        return self.endpoint.base_url + _PATHS[call.operation]

    async def headers(self, call: UpstreamCall) -> dict[str, str]:
        """Credentials and correlation."""
        headers = {"X-Client-Request-Id": call.attempt_id, "Helicone-Request-Id": id_to_uuid(call.attempt_id)}
        if self.endpoint.api_key:
            headers["Authorization"] = f"Bearer {self.endpoint.api_key}"
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        return headers

    def extra_fields(self, call: UpstreamCall) -> dict[str, Any]:
        """Fields that are added to the caller's."""
        return {"model": call.model.upstream_name}

    def _body(self, call: UpstreamCall, *, stream: bool) -> dict[str, Any]:
        body = {**call.body, **self.extra_fields(call)}
        if stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        for field in self._refused.get(call.model.name, ()):
            body.pop(field, None)
        return body

    async def _without_refused(
        self, call: UpstreamCall, post: Callable[[bytes], Awaitable[T]], *, stream: bool
    ) -> T:
        """Send; once per optional field, again without it when the server names it in a 400."""
        while True:
            body = self._body(call, stream=stream)
            try:
                return await post(orjson.dumps(body))
            except UpstreamError as error:
                named = [f for f in self.optional_fields if f in body and f in error.message]
                if error.kind is not FailureKind.REJECTED or not named:
                    raise
                self._refused.setdefault(call.model.name, set()).update(named)
