"""Routes as YAML: endpoints, models, and prices beside them."""

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.errors import ConfigError
from routing.model import Endpoint, Model, ModelRole, OnAbort, Routes

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_Name = Annotated[str, Field(min_length=1, max_length=256)]
#: What can stand in an HTTP header; a line break that was pasted along can't.
_CREDENTIAL = re.compile(r"[\x21-\x7e]*")

#: Who sells what such an endpoint serves, if the file does not say; of the other kinds, the endpoint's own name.
_PROVIDERS = {"databricks": "Databricks", "anthropic": "Anthropic"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class EndpointSpec(_Strict):
    """An endpoint as the file has it; see `routing.model.Endpoint`."""

    kind: Literal["databricks", "openai", "anthropic", "litellm"]
    base_url: str = ""
    provider: Annotated[str, Field(max_length=256)] = ""
    api_key: str = ""
    client_id: str = ""
    client_secret: str = ""
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 297.0
    connect_timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    max_connections: Annotated[int, Field(ge=1, le=65_536)] = 4096
    on_abort: OnAbort = OnAbort.ESTIMATE


class ModelSpec(_Strict):
    """A model as the file has it; see `routing.model.Model`. upstream_name defaults to its name."""

    name: _Name
    endpoint: str
    upstream_name: _Name | None = None
    role: ModelRole = ModelRole.OTHER
    priority: int = 100
    kind: Literal["chat", "embedding"] = "chat"
    aliases: list[_Name] = []
    default_max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    max_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 8192
    template_tokens: Annotated[int, Field(ge=0, le=100_000)] = 64
    tool_template_tokens: Annotated[int, Field(ge=0, le=100_000)] = 512
    max_tokens_per_image: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    extra_fields: list[_Name] = []
    owned_by: Annotated[str, Field(max_length=256)] = ""

    @model_validator(mode="after")
    def _default_within_limit(self) -> "ModelSpec":
        if self.default_max_tokens > self.max_output_tokens:
            raise ValueError("default_max_tokens must not be above max_output_tokens")
        return self


class RoutesSpec(_Strict):
    """The whole file. prices: as in the price book's file; read by another package."""

    endpoints: Annotated[dict[str, EndpointSpec], Field(min_length=1)]
    models: Annotated[list[ModelSpec], Field(min_length=1)]
    prices: list[dict[str, Any]] = []


def default_routes_text() -> str:
    """The YAML that ships with the product."""
    return files("routing").joinpath("routes.default.yaml").read_text()


def load_routes(text: str, *, source: str, environment: Mapping[str, str]) -> Routes:
    """Routes from YAML; ``${NAME}`` and ``${NAME:-default}`` in endpoints come from `environment`.

    Raises:
        ConfigError: names the file, the field and the rule.
    """
    spec = _parse(text, source)
    endpoints = [_endpoint(name, e, source, environment) for name, e in spec.endpoints.items()]
    models = [
        Model(
            **m.model_dump(exclude={"aliases", "upstream_name", "extra_fields"}),
            upstream_name=m.upstream_name or m.name,
            aliases=tuple(m.aliases),
            extra_fields=tuple(m.extra_fields),
        )
        for m in spec.models
    ]
    try:
        return Routes(models, endpoints)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error.message}") from None


def prices_in(text: str) -> list[dict[str, Any]]:
    """The `prices:` entries of a routes file, unread."""
    return _parse(text, "the routes").prices


def _parse(text: str, source: str) -> RoutesSpec:
    try:
        data = yaml.load(text, _UniqueKeys)  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        # Without the lines around it, which PyYAML would quote: they may hold a key.
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise ConfigError(f"{source} is not YAML: {error.problem}{line}") from None
    except yaml.YAMLError:
        raise ConfigError(f"{source} is not YAML: it holds a character that YAML does not allow") from None
    try:
        return RoutesSpec.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"{source}: {field}: {first['msg'].removeprefix('Value error, ')}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that is there twice, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value} is there twice", key_node.start_mark
                )
            if isinstance(key_node, yaml.ScalarNode):
                seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _endpoint(name: str, spec: EndpointSpec, source: str, environment: Mapping[str, str]) -> Endpoint:
    def fill(field: str) -> str:
        def value(match: re.Match[str]) -> str:
            given = environment.get(match[1]) or match[2]
            if given is None:
                raise ConfigError(f"{source}: endpoints.{name}.{field} needs {match[1]} in the environment")
            return given

        text: str = getattr(spec, field)
        if "${" in _VARIABLE.sub("", text):
            raise ConfigError(f"{source}: endpoints.{name}.{field} must name variables as ${{NAME}} or ${{NAME:-text}}")
        return _VARIABLE.sub(value, text).strip()

    def fill_credential(field: str) -> str:
        text = fill(field)
        if not _CREDENTIAL.fullmatch(text):
            raise ConfigError(
                f"{source}: endpoints.{name}.{field} holds a space, a line break or a non-ASCII character"
            )
        return text

    base_url = fill("base_url").rstrip("/")
    if base_url or spec.kind != "litellm":
        _check_url(f"{source}: endpoints.{name}.base_url", base_url)
    if spec.kind == "databricks":
        base_url = base_url.removesuffix("/serving-endpoints")
    api_key, client_id = fill_credential("api_key"), fill_credential("client_id")
    client_secret = fill_credential("client_secret")
    if bool(client_id) != bool(client_secret):
        raise ConfigError(f"{source}: endpoints.{name} needs client_id and client_secret together")
    if spec.kind == "databricks" and not api_key and not client_id:
        raise ConfigError(f"{source}: endpoints.{name} needs api_key, or client_id and client_secret")
    if spec.kind == "anthropic" and not api_key:
        raise ConfigError(f"{source}: endpoints.{name} needs api_key")
    return Endpoint(
        name=name,
        kind=spec.kind,
        base_url=base_url,
        api_key=api_key or None,
        client_id=client_id or None,
        client_secret=client_secret or None,
        timeout_s=spec.timeout_s,
        connect_timeout_s=spec.connect_timeout_s,
        max_connections=spec.max_connections,
        on_abort=spec.on_abort,
        provider=spec.provider or _PROVIDERS.get(spec.kind, name),
    )


def _check_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname and (parts.port or True)  # `port` raises on nonsense
    except ValueError:
        raise ConfigError(f"{where} must be a URL") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{where} must begin with http:// or https:// and name a host")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"{where} must hold no credentials, query or fragment")
