"""Bytes of text in requests and answers, from which usage is estimated when the provider does not give it."""

import math
from typing import Any

#: Why an estimate is above what was held.
BEYOND = "it went on beyond max_tokens"
#: How long an upstream goes on after its connection was closed: what it makes until then it bills, and nobody sees it.
_GOES_ON_S = 0.25
#: As fast as the faster models; where an answer shows that it is faster still, that counts.
_LIKELY_TOKENS_PER_S = 400
_SHORTEST_LOOK_S = 0.1
_EMPTY: dict[str, Any] = {}


def tokens_of_cut_answer(seen_tokens: int, after_s: float) -> int:
    """Tokens of an answer that was cut off when so many had been seen, that long after the first."""
    pace = max(_LIKELY_TOKENS_PER_S, seen_tokens / max(after_s, _SHORTEST_LOOK_S))
    return seen_tokens + math.ceil(pace * _GOES_ON_S)


def sent_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of the text in a request."""
    total = len(str(body.get("tools", "")).encode())
    source = body.get("messages") or body.get("input") or ""
    if isinstance(source, str):
        return total + len(source.encode())
    for item in source:
        content = item.get("content") if isinstance(item, dict) else item
        total += len((content if isinstance(content, str) else str(content or "")).encode())
    return total


def choices_of(answer: dict[str, Any], part: str) -> list[dict[str, Any]] | None:
    """The choices of an answer or a chunk, each with a well-formed `part` (``message`` or ``delta``) if it has one.

    Empty where there are none; None: they have another shape.
    """
    choices = answer.get("choices") or []
    if not isinstance(choices, list):
        return None
    for choice in choices:
        if not isinstance(choice, dict) or not isinstance(choice.get(part) or _EMPTY, dict):
            return None
    return choices


def answer_bytes(body: dict[str, Any]) -> int:
    """UTF-8 bytes of the text and the tool calls in an answer."""
    return sum(message_bytes(choice.get("message")) for choice in choices_of(body, "message") or ())


def message_bytes(message: object) -> int:
    """UTF-8 bytes that the model generated in a message or a delta."""
    if not isinstance(message, dict):
        return 0
    total = 0
    for field_name in ("content", "reasoning_content", "refusal"):
        text = message.get(field_name)
        if text:
            total += _text_bytes(text)
    calls = message.get("tool_calls")
    return total + sum(map(_tool_call_bytes, calls)) if isinstance(calls, list) else total


def _text_bytes(text: object) -> int:
    if not isinstance(text, str):
        text = str(text)
    return len(text) if text.isascii() else len(text.encode())


def _tool_call_bytes(call: object) -> int:
    """Name and arguments; what is around them in a chunk the model did not write."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return len(str(call).encode())
    return sum(len(str(function.get(name) or "").encode()) for name in ("name", "arguments"))
