"""What the simulated models say: the same for the same request, always."""

import base64
import hashlib
import math
from array import array
from collections.abc import Mapping
from operator import mul
from typing import Any

from simulator.tokens import split_tokens

_ECHO_CHARS = 120
_MAX_SCHEMA_DEPTH = 8

#: What an answer says after its first sentence. Each starts with a space and a letter: no token spans two.
_SENTENCES = [
    " This is the simulated Databricks endpoint: no model was called and no money was spent.",
    " A real model would work through the request step by step and answer in its own words.",
    " To get there, state the goal, name the facts that are known, and check the result against them.",
    " If something is missing, ask for it before going on.",
    " Keep the answer as short as the question allows.",
    " Then compare the cost of the call with what the answer was worth.",
]
_TAIL = split_tokens("".join(_SENTENCES[:3]))
_FILLER = split_tokens("".join(_SENTENCES[1:]))


def reply_tokens(question: str, choice: int, wanted: int | None) -> list[str]:
    """The tokens of an answer to `question`.

    Args:
        question: the user's last text; its beginning is echoed.
        choice: index among several answers; each begins differently.
        wanted: exact number of tokens, or None for where the text ends by itself.
    """
    echo = " ".join(question[: 4 * _ECHO_CHARS].split())
    if len(echo) > _ECHO_CHARS:
        echo = echo[:_ECHO_CHARS].rstrip() + "..."
    opening = f"Answer {choice + 1}: y" if choice else "Y"
    about = f"ou asked: '{echo}'." if echo else "ou sent a request without text."
    tokens = split_tokens(opening + about) + _TAIL
    if wanted is None:
        return tokens
    if wanted > len(tokens):
        tokens = tokens + _FILLER * -(-(wanted - len(tokens)) // len(_FILLER))
    return tokens[:wanted]


def example_of(schema: Mapping[str, Any], name: str = "value", depth: int = 0) -> Any:
    """A value that fits a JSON schema: its constant, default, first option, or the plainest of its type.

    Objects get their required properties; below eight levels, and where no schema is, it is None.
    """
    if depth > _MAX_SCHEMA_DEPTH or not isinstance(schema, Mapping):
        return None
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example_of(schema[key][0], name, depth + 1)
    return _example_of_type(schema, name, depth)


def _example_of_type(schema: Mapping[str, Any], name: str, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    match kind:
        case "object":
            return _example_object(schema, depth)
        case "array":
            count = max(1, min(int(schema.get("minItems", 1)), 16))
            return [example_of(schema.get("items") or {}, name, depth + 1)] * count
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return f"example {name}"


def _example_object(schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    required = schema.get("required") or ()
    return {name: example_of(properties.get(name) or {}, name, depth + 1) for name in required}


def embedding(text: str, dimensions: int) -> list[float]:
    """A vector of length 1 that follows from the text alone."""
    values = array("h", hashlib.shake_128(text.encode()).digest(2 * dimensions))
    scale = 1 / (math.sqrt(sum(map(mul, values, values))) or 1.0)
    return [round(value * scale, 7) for value in values]


def embedding_base64(text: str, dimensions: int) -> str:
    """The same vector as OpenAI's clients ask for it: little-endian 32-bit floats in base64."""
    floats = array("f", embedding(text, dimensions))
    return base64.b64encode(floats.tobytes()).decode()
