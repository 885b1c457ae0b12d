"""What in a request bears a price, bounded before it leaves or refused by name."""

from collections.abc import Mapping
from typing import Any

from core.errors import InvalidInput
from core.values import value
from gateway.fields import check_message_fields
from routing.model import Model
from telemetry.usage import estimate_tokens

_MAX_CHOICES = 64
_TOKENS_PER_MESSAGE = 16
_LIKELY_TOKENS_PER_MESSAGE = 4


@value
class Bounds:
    """What a request may cost at most, before any model is chosen.

    max_tokens: of output per choice as the caller asked, None if it did not.
    choices: answers asked for. images: image parts, which bytes do not bound when they are links.
    """

    max_tokens: int | None
    choices: int
    messages: int
    images: int
    tools: bool


def read_bounds(body: Mapping[str, Any], operation: str) -> Bounds:
    """Read the price-bearing fields of an OpenAI-shaped request; `fields.check_fields` says which it may have.

    Raises:
        InvalidInput: a field is malformed, or could cost more than can be held for it.
    """
    if operation == "embeddings":
        if not isinstance(body.get("input"), (str, list)) or not body["input"]:
            raise InvalidInput("input", "must be text or a list of texts")
        return Bounds(0, 1, len(body["input"]) if isinstance(body["input"], list) else 1, 0, False)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("messages", "must be a list with at least one message")
    images = 0
    for number, message in enumerate(messages):
        images += _images(number, message)
    return Bounds(_max_tokens(body), _choices(body), len(messages), images, _has_tools(body))


def input_tokens_bound(raw_bytes: int, bounds: Bounds, model: Model) -> int:
    """More tokens than any tokeniser can make of the request.

    A byte-level tokeniser gives at most one token per byte of text, and JSON never shortens a text; the provider's
    chat template adds a bounded number per message, and once more for tools.
    """
    template = model.template_tokens + _TOKENS_PER_MESSAGE * bounds.messages
    if bounds.tools:
        template += model.tool_template_tokens
    if bounds.images:
        if model.max_tokens_per_image is None:
            raise InvalidInput("messages", f"hold images, and the routes give no max_tokens_per_image for {model.name}")
        template += bounds.images * model.max_tokens_per_image
    return raw_bytes + template


def estimate_input_tokens(text_bytes: int, bounds: Bounds, model: Model) -> int:
    """Tokens of a request as they probably are: its text, the template's marks, and its images at their bound."""
    return (
        estimate_tokens(text_bytes)
        + _LIKELY_TOKENS_PER_MESSAGE * bounds.messages
        + bounds.images * (model.max_tokens_per_image or 0)
    )


def _max_tokens(body: Mapping[str, Any]) -> int | None:
    asked = None
    for field in ("max_tokens", "max_completion_tokens"):
        value = body.get(field)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InvalidInput(field, "must be a whole number of at least 1")
        asked = value if asked is None else min(asked, value)
    return asked


def _choices(body: Mapping[str, Any]) -> int:
    value = body.get("n", 1)
    if value is None:
        return 1
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_CHOICES:
        raise InvalidInput("n", f"must be a whole number from 1 to {_MAX_CHOICES}")
    return value


def _images(number: int, message: object) -> int:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise InvalidInput(f"messages[{number}]", "must be an object with a role")
    check_message_fields(number, message)
    content = message.get("content")
    if content is None or isinstance(content, str):
        return 0
    if not isinstance(content, list):
        raise InvalidInput(f"messages[{number}].content", "must be text or a list of parts")
    images = 0
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            images += 1
        elif kind not in ("text", "refusal"):
            raise InvalidInput(f"messages[{number}].content", f"has a part of type {kind}, which has no price here")
        if part.get("cache_control"):
            raise InvalidInput(f"messages[{number}].content.cache_control", "is not supported: it is billed apart")
    return images


def _has_tools(body: Mapping[str, Any]) -> bool:
    tools = body.get("tools")
    if not tools:
        return False
    if not isinstance(tools, list):
        raise InvalidInput("tools", "must be a list")
    for number, tool in enumerate(tools):
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise InvalidInput(f"tools[{number}].type", "must be function: hosted tools are billed apart")
        if tool.get("cache_control"):
            raise InvalidInput(f"tools[{number}].cache_control", "is not supported: it is billed apart")
        if not isinstance(tool.get("function"), dict) or not isinstance(tool["function"].get("name"), str):
            raise InvalidInput(f"tools[{number}].function.name", "must be text")
    return True
