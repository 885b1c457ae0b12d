import json
from typing import Any

import pytest

from routing.adapters.anthropic_convert import convert_usage, from_anthropic, to_anthropic
from routing.adapters.anthropic_stream import StreamConverter
from routing.errors import FailureKind, UpstreamError
from routing.model import Model
from telemetry.usage import ExactUsage, Tokens, read_usage

MODEL = Model("claude", "e", "claude-x", default_max_tokens=77)
USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def convert(**body: Any) -> dict[str, Any]:
    return to_anthropic({"messages": [USER], **body}, MODEL)


def refused(**body: Any) -> str:
    with pytest.raises(UpstreamError) as caught:
        convert(**body)
    assert caught.value.kind is FailureKind.REJECTED
    return caught.value.message


def test_the_smallest_request() -> None:
    assert convert() == {
        "model": "claude-x",
        "max_tokens": 77,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    }


def test_parameters() -> None:
    request = convert(
        max_tokens=5, stop="END", temperature=0.5, top_p=0.9, top_k=3, user="u1", n=1, presence_penalty=0.0,
        response_format={"type": "text"}, stream_options={"include_usage": True}, seed=None,
    )  # fmt: skip
    del request["messages"]
    assert request == {
        "model": "claude-x",
        "max_tokens": 5,
        "stop_sequences": ["END"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 3,
        "metadata": {"user_id": "u1"},
    }
    assert convert(max_tokens=5, max_completion_tokens=6)["max_tokens"] == 6
    assert convert(stop=["a", "b"])["stop_sequences"] == ["a", "b"]
    assert "stop_sequences" not in convert(stop=[])


@pytest.mark.parametrize(
    "body",
    [
        {"n": 2},
        {"seed": 7},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"logit_bias": {"1": 5}},
        {"frequency_penalty": 0.5},
        {"response_format": {"type": "json_object"}},
        {"reasoning_effort": "high"},
        {"modalities": ["text", "audio"]},
        {"something_new": 1},
        {"temperature": 1.5},
        {"tool_choice": "sometimes", "tools": [TOOL]},
        {"tools": [{"type": "web_search"}]},
        {"messages": []},
        {"messages": [{"role": "system", "content": "only"}]},
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(body: dict[str, Any]) -> None:
    assert next(iter(body)) in refused(**body)


def test_system_messages_are_joined() -> None:
    messages = [
        {"role": "system", "content": "A"},
        USER,
        {"role": "developer", "content": [{"type": "text", "text": "B"}]},
    ]
    request = convert(messages=messages)
    assert request["system"] == "A\n\nB"
    assert [m["role"] for m in request["messages"]] == ["user"]


def test_tools_and_their_results() -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    request = convert(
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
            {"role": "user", "content": "and?"},
            {"role": "assistant", "content": "so"},
        ],
        tools=[TOOL, {"type": "function", "function": {"name": "g"}}],
    )
    assert request["tools"] == [
        {"name": "f", "description": "d", "input_schema": {"type": "object"}},
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert request["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "two"},
                {"type": "text", "text": "and?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "so"}]},
    ]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
        ({"parallel_tool_calls": True}, None),
    ],
)
def test_tool_choice(fields: dict[str, Any], choice: object) -> None:
    assert convert(tools=[TOOL], **fields).get("tool_choice") == choice
    assert "tool_choice" not in convert(**fields)


def test_arguments_that_are_no_object_are_refused_by_place() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "[1"}}
    said = refused(messages=[USER, {"role": "assistant", "tool_calls": [call]}])
    assert said.startswith("messages[1].tool_calls[0].function.arguments")


def test_images_and_empty_texts() -> None:
    parts = [
        {"type": "text", "text": ""},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]
    assert convert(messages=[{"role": "user", "content": parts}])["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
    ]
    assert "input_audio" in refused(messages=[{"role": "user", "content": [{"type": "input_audio"}]}])
    assert "messages[0].role" in refused(messages=[{"role": "function", "content": "x"}])


MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "model": "claude-x-20260101",
    "content": [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "see."},
        {"type": "tool_use", "id": "tu_1", "name": "f", "input": {"x": 1}},
    ],
    "stop_reason": "tool_use",
    "usage": {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 1000,
        "output_tokens": 7,
    },
}
USAGE = {
    "prompt_tokens": 1110,
    "completion_tokens": 7,
    "total_tokens": 1117,
    "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 1000},
}


def test_an_answer() -> None:
    answer = from_anthropic(MESSAGE, 1700000000)
    call = {"id": "tu_1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}
    assert answer == {
        "id": "msg_1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "claude-x-20260101",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Let me see.", "tool_calls": [call]},
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": USAGE,
    }


def test_usage_is_read_in_disjoint_classes_by_the_next_floor() -> None:
    assert read_usage(convert_usage(MESSAGE["usage"])) == ExactUsage(Tokens(10, 100, 1000, 7))


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 1}, {"input_tokens": 1, "output_tokens": "2"}])
def test_usage_that_is_none_is_left_out(usage: object) -> None:
    assert "usage" not in from_anthropic(MESSAGE | {"usage": usage}, 0)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("stop_sequence", "stop"),
        ("refusal", "content_filter"),
        ("new", "stop"),
    ],
)
def test_finish_reasons(reason: str, finish: str) -> None:
    assert from_anthropic(MESSAGE | {"stop_reason": reason}, 0)["choices"][0]["finish_reason"] == finish


def test_an_answer_without_content_is_broken() -> None:
    with pytest.raises(UpstreamError) as caught:
        from_anthropic({"type": "message"}, 0)
    assert caught.value.kind is FailureKind.BROKEN


EVENTS: list[dict[str, Any]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "model": "claude-x",
            "usage": {
                "input_tokens": 10,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 1000,
                "output_tokens": 3,
            },
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "ping"},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Let me see."}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "a", "name": "f", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"x":'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "content_block_stop", "index": 2},
    {
        "type": "content_block_start",
        "index": 3,
        "content_block": {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    },
    {"type": "content_block_stop", "index": 3},
    {"type": "message_delta", "delta": {"stop_reason": None}, "usage": {"output_tokens": 5}},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use"},
        "usage": {"output_tokens": 7, "cache_read_input_tokens": None},
    },
    {"type": "message_stop"},
]


def converted(events: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], StreamConverter]:
    converter = StreamConverter(1700000000)
    return [chunk for event in events for chunk in converter.feed(json.dumps(event).encode())], converter


def test_a_stream() -> None:
    chunks, converter = converted(EVENTS)
    assert converter.ended
    assert all(c["id"] == "msg_1" and c["object"] == "chat.completion.chunk" for c in chunks)
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(d.get("content", "") for d in deltas) == "Let me see."
    calls = [d["tool_calls"][0] for d in deltas if "tool_calls" in d]
    assert [(c["index"], c.get("id"), c["function"].get("name")) for c in calls if "id" in c] == [
        (0, "a", "f"),
        (1, "b", "g"),
    ]
    arguments = {0: "", 1: ""}
    for call in calls:
        arguments[call["index"]] += call["function"]["arguments"]
    assert arguments == {0: '{"x":1}', 1: "{}"}
    finishes = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert [f for f in finishes if f] == ["tool_calls"]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == USAGE  # 7, not 3 + 5 + 7
    assert not any("usage" in c for c in chunks[:-1])


def test_an_error_event_is_broken() -> None:
    with pytest.raises(UpstreamError) as caught:
        converted([EVENTS[0], {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}])
    error = caught.value
    assert (error.kind, error.vendor_code, error.message) == (FailureKind.BROKEN, "overloaded_error", "Overloaded")


@pytest.mark.parametrize("payload", [b"", b"nonsense", b"[1]"])
def test_an_event_that_is_none_is_broken(payload: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        StreamConverter(0).feed(payload)
    assert caught.value.kind is FailureKind.BROKEN


def test_odd_events_break_nothing() -> None:
    odd: list[dict[str, Any]] = [
        {"type": "message_start"},
        {"type": "content_block_delta", "delta": 7},
        {"type": "new"},
        {"type": "message_stop"},
    ]
    chunks, converter = converted(odd)
    assert converter.ended
    assert [c["choices"] for c in chunks if "usage" in c] == []
