"""Databricks model serving (foundation models, external models and custom endpoints).

``POST <host>/serving-endpoints/<name>/invocations``. `client_request_id` and `usage_context` are recorded in
Databricks' own usage tables, by which spend is reconciled later.
Source: Databricks REST API, "Query a serving endpoint"; system tables `system.serving.endpoint_usage`.
"""

from typing import Any, TypeVar
from urllib.parse import quote

from core.clock import Clock
from routing.adapters.databricks_auth import credentials_of
from routing.adapters.openai_compatible import OpenAICompatible
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall, UpstreamStream

T = TypeVar("T")


class Databricks(OpenAICompatible):
    """`routing.upstream.Upstream` for a workspace; `base_url` is its host."""

    optional_fields = ("stream_options", "client_request_id", "usage_context")

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        super().__init__(endpoint)
        self._credentials = credentials_of(endpoint, clock)
        self._sent_token = ""

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """A call that is answered at once; a refused OAuth token is replaced once."""
        try:
            return await super().send(call)
        except UpstreamError as error:
            self._reject_token(error)
        return await super().send(call)

    async def open_stream(self, call: UpstreamCall) -> UpstreamStream:
        """A call that is answered in a stream; a refused OAuth token is replaced once."""
        try:
            return await super().open_stream(call)
        except UpstreamError as error:
            self._reject_token(error)
        return await super().open_stream(call)

    def _reject_token(self, error: UpstreamError) -> None:
        """Raise the error again unless a new token may help."""
        refused = error.kind is FailureKind.UNAUTHORIZED and error.status == 401
        if not refused or not self._credentials.reject(self._sent_token):
            raise error

    def url(self, call: UpstreamCall) -> str:
        """The endpoint of the model; chat and embeddings share it."""
        name = quote(call.model.upstream_name, safe="")
        return f"{self.endpoint.base_url}/serving-endpoints/{name}/invocations"

    async def headers(self, call: UpstreamCall) -> dict[str, str]:
        """Credentials and trace context."""
        self._sent_token = await self._credentials.token()
        headers = {"Authorization": f"Bearer {self._sent_token}"}
        if call.traceparent:
            headers["traceparent"] = call.traceparent
        return headers

    def extra_fields(self, call: UpstreamCall) -> dict[str, Any]:
        """What Databricks records with its usage."""
        return {"client_request_id": call.attempt_id, "usage_context": dict(call.usage_context)}
