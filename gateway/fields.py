"""Which fields a request may have: those whose cost the ceiling covers, and those that cost nothing. No others.

A field that nobody here knows may bear a price, so it is refused by its name. A routes file may let more through for a
model (`extra_fields`), where its operator knows that they cost nothing.
"""

from collections.abc import Collection, Mapping
from typing import Any

from core.errors import InvalidInput

#: Inside the ceiling. Their text is in the bytes of the request, their output within the granted max_tokens, or they
#: are read by `gateway.bounds`.
_BOUNDED = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "n", "tools", "tool_choice", "modalities", "service_tier",
        "reasoning_effort", "reasoning", "thinking", "response_format", "chat_template_kwargs",
        "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    }
)  # fmt: skip
#: Without a price.
_FREE = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty",
        "logit_bias", "logprobs", "top_logprobs", "stop", "stop_token_ids", "seed", "min_tokens", "ignore_eos",
        "parallel_tool_calls", "verbosity", "user", "safety_identifier", "metadata", "store", "prompt_cache_key",
        "client_request_id", "usage_context",
    }
)  # fmt: skip
FIELDS: Mapping[str, frozenset[str]] = {
    "chat": _BOUNDED | _FREE,
    "embeddings": frozenset(
        {"input", "dimensions", "encoding_format", "user", "instruction", "input_type", "service_tier"}
        | {"client_request_id", "usage_context"}
    ),
}
#: What is known to cost more than tokens × price, and why.
REFUSED: Mapping[str, str] = {
    "audio": "spoken output has no price here",
    "best_of": "answers that are made and not returned are billed",
    "cache_control": "cached input is billed apart",
    "function_call": "is OpenAI's old form of tool_choice",
    "functions": "is OpenAI's old form of tools",
    "prediction": "rejected predictions are billed beyond max_tokens",
    "web_search_options": "searches are billed apart",
}
_MESSAGE_FIELDS = frozenset(
    {
        "role", "content", "name", "tool_calls", "tool_call_id", "refusal", "annotations",
        "reasoning", "reasoning_content", "reasoning_details",
    }
)  # fmt: skip
_PLAIN_TIERS = (None, "auto", "default", "standard")


def check_fields(body: Mapping[str, Any], operation: str, extra: Collection[str] = ()) -> None:
    """Refuse the request if one of its fields may cost what can't be held for.

    extra: fields that are let through beside the known ones. A null counts as not given.

    Raises:
        InvalidInput: names the field.
    """
    known = FIELDS[operation]
    if not known.issuperset(body):  # seldom so
        for field in body.keys() - known:
            if field not in extra and body[field] is not None:
                raise InvalidInput(field, _why(field))
    if body.get("service_tier") not in _PLAIN_TIERS:
        raise InvalidInput("service_tier", "must be default: other tiers have other prices")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise InvalidInput("modalities", 'must be ["text"]: other outputs have no price here')


def check_message_fields(number: int, message: Mapping[str, Any]) -> None:
    """The same for a message; empty values, which answers have that are sent back as they came, are fine.

    Raises:
        InvalidInput: names the field.
    """
    if not _MESSAGE_FIELDS.issuperset(message):
        for field in message.keys() - _MESSAGE_FIELDS:
            if message[field]:
                raise InvalidInput(f"messages[{number}].{field}", _why(field))


def _why(field: str) -> str:
    if field in REFUSED:
        return f"is not supported: {REFUSED[field]}"
    return "is not known: what it costs can't be bounded before the call"
