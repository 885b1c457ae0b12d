"""The adapter of each endpoint, made when it is first needed."""

from importlib.util import find_spec

from core.clock import Clock
from core.errors import ConfigError
from routing.adapters.databricks import Databricks
from routing.adapters.openai_compatible import OpenAICompatible
from routing.model import Endpoint, Model, Routes
from routing.upstream import Upstream


class Upstreams:
    """Adapters by endpoint.

    Raises:
        ConfigError: an endpoint needs the litellm SDK, which is not installed. Said at the start: the first call
            that needed it would be too late, as its money is held by then.
    """

    def __init__(self, routes: Routes, clock: Clock) -> None:
        self._routes = routes
        self._clock = clock
        self._by_endpoint: dict[str, Upstream] = {}
        if any(e.kind == "litellm" for e in routes.endpoints.values()) and find_spec("litellm") is None:
            raise ConfigError("the routes have an endpoint of kind litellm: pip install 'spendgate[litellm]'")

    def for_model(self, model: Model) -> Upstream:
        """The adapter that reaches a model."""
        upstream = self._by_endpoint.get(model.endpoint)
        if upstream is None:
            upstream = self._by_endpoint[model.endpoint] = self._make(self._routes.endpoints[model.endpoint])
        return upstream

    def _make(self, endpoint: Endpoint) -> Upstream:
        if endpoint.kind == "databricks":
            return Databricks(endpoint, self._clock)
        if endpoint.kind == "anthropic":
            from routing.adapters.anthropic import Anthropic

            return Anthropic(endpoint, self._clock)
        if endpoint.kind == "litellm":
            from routing.adapters.litellm_sdk import LiteLLM  # heavy, and an extra: loaded only where it is used

            return LiteLLM(endpoint)
        return OpenAICompatible(endpoint, self._clock)

    async def close(self) -> None:
        """Close every adapter's connections."""
        for upstream in self._by_endpoint.values():
            await upstream.close()
