"""Anthropic's Messages API as its documentation shows it: answers and event sequences, checked by its SDK's types.

Source: https://docs.anthropic.com/en/api/messages-streaming (its examples, with round counts of tokens).
"""

from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

import orjson
from anthropic.types import Message, RawMessageStreamEvent
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from pydantic import TypeAdapter

_REQUEST: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)
_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)
_REQUEST_FIELDS = set(get_type_hints(MessageCreateParamsNonStreaming))
#: In version 2023-06-01 of the API, which we speak; the SDK's types are of a later one, which has dropped them.
_SAMPLING = {"temperature", "top_p", "top_k"}


def valid_request(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """The request itself, if the SDK's types take it."""
    unknown = request.keys() - _REQUEST_FIELDS - _SAMPLING
    assert not unknown, f"not in the Messages API: {unknown}"
    _exhaust(_REQUEST.validate_python(request))
    return request


def _exhaust(value: object) -> None:
    """Iterate all that is in a validated value: pydantic checks an `Iterable` only then."""
    if isinstance(value, Mapping):
        for inner in value.values():
            _exhaust(inner)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for inner in value:
            _exhaust(inner)


def message(content: list[dict[str, Any]], stop_reason: str = "end_turn", **changes: Any) -> dict[str, Any]:
    """An answer, as the SDK takes it."""
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x-20260101",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 5},
    } | changes
    Message.model_validate(answer)
    return answer


def valid_events(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events themselves, if the SDK's types take them; `ping` and `error` are not among those."""
    for event in events:
        if event["type"] not in ("ping", "error"):
            _EVENT.validate_python(event)
    return events


def sse(event: Mapping[str, Any]) -> bytes:
    """An event as it goes over the wire, with its name."""
    return b"event: " + str(event["type"]).encode() + b"\ndata: " + orjson.dumps(event) + b"\n\n"


def start(**usage: int) -> dict[str, Any]:
    opening = message([], usage={"input_tokens": 25, "output_tokens": 1} | usage)
    return {"type": "message_start", "message": opening | {"stop_reason": None}}


def text_block(index: int, *texts: str) -> list[dict[str, Any]]:
    begun = {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}}
    return [begun, *(_delta(index, {"type": "text_delta", "text": text}) for text in texts), _stop(index)]


def tool_block(index: int, call_id: str, name: str, *pieces: str) -> list[dict[str, Any]]:
    block = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
    begun = {"type": "content_block_start", "index": index, "content_block": block}
    deltas = [_delta(index, {"type": "input_json_delta", "partial_json": piece}) for piece in pieces]
    return [begun, *deltas, _stop(index)]


def thinking_block(index: int) -> list[dict[str, Any]]:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    begun = {"type": "content_block_start", "index": index, "content_block": block}
    thought = _delta(index, {"type": "thinking_delta", "thinking": "Let me see …"})
    return [begun, thought, _delta(index, {"type": "signature_delta", "signature": "EqQB"}), _stop(index)]


def delta(stop_reason: str | None, output_tokens: int, **usage: int) -> dict[str, Any]:
    ending = {"stop_reason": stop_reason, "stop_sequence": None}
    return {"type": "message_delta", "delta": ending, "usage": {"output_tokens": output_tokens} | usage}


def _delta(index: int, change: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": change}


def _stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


PING: dict[str, Any] = {"type": "ping"}
STOP: dict[str, Any] = {"type": "message_stop"}
#: "Basic streaming request".
HELLO = valid_events([start(), PING, *text_block(0, "Hello", "!"), delta("end_turn", 15), STOP])
#: "Streaming request with tool use".
WEATHER = valid_events(
    [
        start(),
        *text_block(0, "Okay, let me check."),
        PING,
        *tool_block(1, "toolu_1", "get_weather", "", '{"location":', ' "Paris"}'),
        *tool_block(2, "toolu_2", "get_time"),
        delta("tool_use", 89),
        STOP,
    ]
)
