"""What can be called, and where."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Literal

from core.errors import ConfigError, NotFound
from core.values import value


class ModelRole(StrEnum):
    """primary: asked for by default. fallback: taken when a budget runs thin or the primary fails.
    other: only when named.
    """

    PRIMARY = "primary"
    FALLBACK = "fallback"
    OTHER = "other"


class OnAbort(StrEnum):
    """What becomes of a call whose client goes away before its answer is complete.

    estimate: the upstream is closed at once; a stream is charged by what was sent and received, another call, of
        which nothing was seen, its whole hold.
    drain: the upstream is read on, within limits, and the exact usage is charged if it comes; else as above.
    charge_hold: the upstream is closed at once and the whole hold is charged.
    """

    ESTIMATE = "estimate"
    DRAIN = "drain"
    CHARGE_HOLD = "charge_hold"


@value
class Endpoint:
    """A provider's address.

    kind: which adapter speaks to it.
    base_url: without trailing slash; for Databricks the workspace's host.
    provider: who sells what it serves, as cost records name it.
    api_key: a bearer token; or client_id and client_secret for OAuth M2M (Databricks).
    """

    name: str
    kind: Literal["databricks", "openai", "anthropic", "litellm"]
    base_url: str
    api_key: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    timeout_s: float = 297.0
    connect_timeout_s: float = 5.0
    max_connections: int = 4096
    on_abort: OnAbort = OnAbort.ESTIMATE
    provider: str = ""

    def __repr__(self) -> str:
        return f"Endpoint({self.name}, {self.kind}, {self.base_url})"  # credentials stay out of logs


@value
class Model:
    """A model as configuration.

    name: what callers ask for and what prices are kept under.
    upstream_name: what the endpoint calls it.
    priority: lower is preferred, within a role.
    kind: ``chat`` or ``embedding``.
    default_max_tokens: sent upstream when the caller names none, so that the ceiling is real.
    max_output_tokens: the most that a caller may ask for.
    template_tokens: bound on what the provider's chat template adds beyond the bytes of the request.
    tool_template_tokens: the same, added when the request has tools.
    max_tokens_per_image: bound for one image part; None refuses images.
    extra_fields: fields of a request that are passed on beside the known ones; they must cost nothing.
    owned_by: who made the model, as cost records and `GET /v1/models` name it; empty: not known.
    """

    name: str
    endpoint: str
    upstream_name: str
    role: ModelRole = ModelRole.OTHER
    priority: int = 100
    kind: Literal["chat", "embedding"] = "chat"
    aliases: tuple[str, ...] = ()
    default_max_tokens: int = 1024
    max_output_tokens: int = 8192
    template_tokens: int = 64
    tool_template_tokens: int = 512
    max_tokens_per_image: int | None = None
    extra_fields: tuple[str, ...] = ()
    owned_by: str = ""


class Routes:
    """The models and endpoints in force. Immutable; pure look-ups."""

    def __init__(self, models: Iterable[Model], endpoints: Iterable[Endpoint]) -> None:
        self.models = tuple(sorted(models, key=lambda m: (m.priority, m.name)))
        self.endpoints: Mapping[str, Endpoint] = {e.name: e for e in endpoints}
        self._by_name: dict[str, Model] = {}
        for model in self.models:
            if model.endpoint not in self.endpoints:
                raise ConfigError(f"model {model.name} names the endpoint {model.endpoint}, which is not in the routes")
            for name in (model.name, *model.aliases):
                if name in self._by_name:
                    raise ConfigError(f"two models are called {name}")
                self._by_name[name] = model

    def find(self, name: str) -> Model:
        """The model of this name or alias.

        Raises:
            NotFound: with the names that exist.
        """
        model = self._by_name.get(name)
        if model is None:
            known = ", ".join(m.name for m in self.models)
            raise NotFound(f"the model {name} is not in the routes; known models: {known}")
        return model

    def primary(self, kind: str = "chat") -> Model:
        """The preferred primary model of a kind.

        Raises:
            NotFound: the routes have none.
        """
        for model in self.models:
            if model.kind == kind and model.role is ModelRole.PRIMARY:
                return model
        raise NotFound(f"the routes have no primary {kind} model")

    def fallbacks(self, model: Model) -> tuple[Model, ...]:
        """The fallbacks of a model, preferred first; for a fallback, those after it."""
        chain = [m for m in self.models if m.kind == model.kind and m.role is ModelRole.FALLBACK]
        if model in chain:
            return tuple(chain[chain.index(model) + 1 :])
        return tuple(chain)
