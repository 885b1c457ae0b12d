"""Embeddings: a request checked, and its answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.answers import embedding, embedding_base64
from simulator.errors import invalid_parameter
from simulator.tokens import TEMPLATE_TOKENS_PER_INPUT, count_tokens

_MAX_INPUTS = 2048


@dataclass(frozen=True, slots=True)
class EmbeddingsPlan:
    """A checked request: the texts, and what they are billed with. base64: how the vectors are written."""

    texts: list[str]
    prompt_tokens: int
    base64: bool


def plan_embeddings(body: Mapping[str, Any]) -> EmbeddingsPlan:
    """Check a request. ``input`` is a text, a list of texts, a list of token numbers, or a list of those.

    Raises:
        CallError: 400, naming the field.
    """
    given = body.get("input")
    if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
        given = [given]
    if not isinstance(given, list) or not given or len(given) > _MAX_INPUTS:
        raise invalid_parameter(f"input must be text or a list of 1 to {_MAX_INPUTS} texts.")
    tokens = sum(_count(item) + TEMPLATE_TOKENS_PER_INPUT for item in given)
    texts = [item if isinstance(item, str) else repr(item) for item in given]
    return EmbeddingsPlan(texts, tokens, body.get("encoding_format") == "base64")


def embeddings_body(plan: EmbeddingsPlan, dimensions: int, model: str) -> dict[str, Any]:
    """The answer, with its usage."""
    vector = embedding_base64 if plan.base64 else embedding
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": vector(text, dimensions)}
            for i, text in enumerate(plan.texts)
        ],
        "model": model,
        "usage": {"prompt_tokens": plan.prompt_tokens, "total_tokens": plan.prompt_tokens},
    }


def _count(item: object) -> int:
    if isinstance(item, str):
        return count_tokens(item)
    if isinstance(item, list) and all(isinstance(number, int) for number in item):
        return len(item)
    raise invalid_parameter("input: each must be text or a list of token numbers.")
