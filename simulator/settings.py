"""What the simulator serves and how it behaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from core.errors import InvalidInput
from simulator.faults import Fault, parse_faults

MAX_BODY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """One serving endpoint.

    kind: ``chat`` or ``embedding``.
    served_name: what the answer's ``model`` says, with its dated version; None says the endpoint's name.
    latency_ms: waited before an answer, or a stream's first chunk.
    tokens_per_chunk: of a stream. chunk_delay_ms: between two chunks.
    output_tokens: desired length of an answer; None lets the text end by itself.
    requests_per_minute, tokens_per_minute: rate limits; None is none. Tokens are the prompt's plus
        max_tokens, reserved before admission; what was not used is given back.
    default_reserved_tokens: reserved for output when the caller names no max_tokens.
    accepts_stream_options: False refuses them with a 400 that names them.
    retired: answers 404. ignores_max_tokens: goes on to the desired length.
    tokens_per_image: prompt tokens of one image part; None refuses images.
    dimensions: of an embedding.
    faults: armed at the start.
    """

    kind: Literal["chat", "embedding"] = "chat"
    served_name: str | None = None
    latency_ms: float = 0.0
    tokens_per_chunk: int = 4
    chunk_delay_ms: float = 0.0
    output_tokens: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    default_reserved_tokens: int = 1000
    accepts_stream_options: bool = True
    retired: bool = False
    ignores_max_tokens: bool = False
    tokens_per_image: int | None = None
    dimensions: int = 1024
    faults: tuple[Fault, ...] = ()


def default_models() -> dict[str, ModelSettings]:
    """The endpoints that are there without configuration; versions as Databricks' answers carried them."""
    chat = {
        "databricks-dbrx-instruct": "dbrx-instruct-032724",
        "databricks-mixtral-8x7b-instruct": "mixtral-8x7b-instruct-v0.1",
        "databricks-meta-llama-3-3-70b-instruct": "meta-llama-3.3-70b-instruct-121024",
        "databricks-meta-llama-3-1-8b-instruct": "meta-llama-3.1-8b-instruct-110524",
        "databricks-gpt-oss-20b": "gpt-oss-20b-080525",
    }
    embedding = {
        "databricks-gte-large-en": "gte-large-en-v1.5",
        "databricks-bge-large-en": "bge-large-en-v1.5",
    }
    models = {name: ModelSettings(served_name=served) for name, served in chat.items()}
    for name, served in embedding.items():
        models[name] = ModelSettings("embedding", served)
    return models


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """The whole simulator.

    models: endpoints by name.
    access_tokens: accepted personal access tokens; empty accepts any that is not empty.
    client_id, client_secret: of the OAuth client; None accepts any that is not empty.
    oauth_token_ttl_s: how long an OAuth token that was given out is good for.
    bill_path: JSON file that keeps the bill over a restart; None keeps it in memory.
    max_body_bytes: larger requests get 413.
    """

    models: Mapping[str, ModelSettings] = field(default_factory=default_models)
    access_tokens: tuple[str, ...] = ()
    client_id: str | None = None
    client_secret: str | None = None
    oauth_token_ttl_s: int = 3600
    bill_path: str | None = None
    max_body_bytes: int = MAX_BODY_BYTES

    def __repr__(self) -> str:
        return f"SimulatorSettings({len(self.models)} models)"  # credentials stay out of logs


_MODEL_TYPES = get_type_hints(ModelSettings)
_SIMULATOR_TYPES = get_type_hints(SimulatorSettings)
_MODEL_FIELDS = {f.name for f in fields(ModelSettings)}
_SIMULATOR_FIELDS = {f.name for f in fields(SimulatorSettings)}


def parse_settings(raw: Mapping[str, Any]) -> SimulatorSettings:
    """Settings from JSON.

    Any field of `SimulatorSettings`; ``models`` maps a name to fields of `ModelSettings`, laid over the
    default endpoint of that name or adding a new one; a field of `ModelSettings` at the top level goes to
    every model.

    Raises:
        InvalidInput: an unknown field, or a value of the wrong type.
    """
    own = {name: value for name, value in raw.items() if name in _SIMULATOR_FIELDS and name != "models"}
    for_all = {name: value for name, value in raw.items() if name not in _SIMULATOR_FIELDS}
    named = raw.get("models", {})
    if not isinstance(named, Mapping):
        raise InvalidInput("models", "must map names to settings")
    models = default_models()
    for name in named:
        models.setdefault(name, ModelSettings())
    models = {name: change_model(model, for_all) for name, model in models.items()}
    for name, changes in named.items():
        models[name] = change_model(models[name], changes)
    if "access_tokens" in own:
        own["access_tokens"] = _strings("access_tokens", own["access_tokens"])
    _check_types(own, _SIMULATOR_TYPES, skip=("access_tokens",))
    return SimulatorSettings(models=models, **own)


def change_model(model: ModelSettings, changes: Mapping[str, Any]) -> ModelSettings:
    """The model with some fields changed.

    Raises:
        InvalidInput: an unknown field, or a value of the wrong type.
    """
    if not isinstance(changes, Mapping):
        raise InvalidInput("model", "must be an object of settings")
    for name in changes:
        if name not in _MODEL_FIELDS:
            raise InvalidInput(name, f"is no setting; settings are {', '.join(sorted(_MODEL_FIELDS))}")
    given = dict(changes)
    if "faults" in given:
        given["faults"] = parse_faults(given["faults"])
    _check_types(given, _MODEL_TYPES, skip=("faults",))
    if given.get("tokens_per_chunk") == 0:
        raise InvalidInput("tokens_per_chunk", "must be at least 1")
    return replace(model, **given)


def _check_types(given: Mapping[str, Any], types: Mapping[str, Any], skip: tuple[str, ...]) -> None:
    for name, value in given.items():
        if name not in skip and not _fits(value, types[name]):
            raise InvalidInput(name, "has a value of the wrong type or below 0")


def _fits(value: object, expected: Any) -> bool:
    options = get_args(expected) or (expected,)
    if value is None:
        return NoneType in options
    if isinstance(value, bool):
        return bool in options
    if isinstance(value, (int, float)):
        return value >= 0 and (float in options or (isinstance(value, int) and int in options))
    return value in options or (isinstance(value, str) and str in options)


def _strings(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
        raise InvalidInput(name, "must be a list of texts that are not empty")
    return tuple(value)
