"""What the adapter sends, judged by the types of Anthropic's own SDK; see also test_anthropic_convert."""

from typing import Any

import pytest

from routing.adapters.anthropic_convert import convert_usage, from_anthropic, to_anthropic
from routing.errors import FailureKind, UpstreamError
from routing.model import Model
from telemetry.usage import read_usage
from tests.routing.messages_api import message, valid_request

MODEL = Model("claude", "e", "claude-x", default_max_tokens=77)
ASK: list[dict[str, Any]] = [{"role": "user", "content": "Hi"}]
CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
]
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "does f",
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}},
    },
}


def converted(**body: Any) -> dict[str, Any]:
    """A request with these fields, which Anthropic's own types take."""
    request = to_anthropic({"messages": ASK, "max_tokens": 5} | body, MODEL)
    valid_request(request)
    return request


def rejected(**body: Any) -> str:
    with pytest.raises(UpstreamError) as caught:
        to_anthropic({"messages": ASK, "max_tokens": 5} | body, MODEL)
    assert caught.value.kind is FailureKind.REJECTED
    return caught.value.message


def turns(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = converted(messages=list(messages))["messages"]
    return made


def test_the_plainest_request() -> None:
    hi = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    assert converted() == {"model": "claude-x", "max_tokens": 5, "messages": hi}


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"max_tokens": 9}, 9),
        ({"max_tokens": None, "max_completion_tokens": 8}, 8),
        ({"max_tokens": None}, 77),
    ],
)
def test_a_limit_is_always_sent(body: dict[str, Any], limit: int) -> None:
    assert converted(**body)["max_tokens"] == limit


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}),
        ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
        ({"stop": None}, {}),
        ({"temperature": 0, "top_p": 0.5}, {"temperature": 0, "top_p": 0.5}),
        ({"temperature": None}, {}),
        ({"user": "u-1"}, {"metadata": {"user_id": "u-1"}}),
        ({"stream_options": {"include_usage": True}, "stream": True, "model": "x", "store": False}, {}),
        ({"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False}, {}),
        ({"response_format": {"type": "text"}, "logit_bias": {}, "seed": None}, {}),
    ],
)
def test_fields(body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert converted(**body) == converted() | expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("response_format", {"type": "json_object"}),
        ("seed", 0),
        ("presence_penalty", 0.5),
        ("logit_bias", {"1": 5}),
        ("reasoning_effort", "low"),
        ("audio", {"voice": "x"}),
        ("functions", []),
        ("temperature", 1.5),
    ],
)
def test_a_field_that_can_not_be_carried_is_refused_by_name(field: str, value: object) -> None:
    assert rejected(**{field: value}).startswith(f"{field} ")


def test_system_messages_are_joined() -> None:
    request = converted(
        messages=[
            {"role": "system", "content": "Be brief."},
            *ASK,
            {"role": "developer", "content": [{"type": "text", "text": "Be"}, {"type": "text", "text": "kind."}]},
        ]
    )
    assert request["system"] == "Be brief.\n\nBe\nkind."
    assert [m["role"] for m in request["messages"]] == ["user"]


def test_tools_are_called_and_answer_in_one_turn() -> None:
    made = turns(
        *ASK,
        {"role": "assistant", "content": "Let me see.", "tool_calls": CALLS},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "And?"},
    )
    assert [m["role"] for m in made] == ["user", "assistant", "user"]
    assert made[1]["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
    ]
    assert made[2]["content"] == [
        {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
        {"type": "tool_result", "tool_use_id": "c2", "content": "two"},
        {"type": "text", "text": "And?"},
    ]


def test_a_call_without_a_word() -> None:
    made = turns(*ASK, {"role": "assistant", "content": None, "tool_calls": CALLS[:1]})
    assert [block["type"] for block in made[1]["content"]] == ["tool_use"]


def test_images() -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        {"type": "text", "text": ""},  # Anthropic refuses empty texts
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0=", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}},
    ]
    assert turns({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "What is this?"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0="}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.jpg"}},
    ]


def test_tools() -> None:
    bare = {"type": "function", "function": {"name": "g"}}
    assert converted(tools=[TOOL, bare])["tools"] == [
        {"name": "f", "description": "does f", "input_schema": TOOL["function"]["parameters"]},  # type: ignore[index]
        {"name": "g", "input_schema": {"type": "object", "properties": {}}},
    ]


@pytest.mark.parametrize(
    ("body", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, {"type": "tool", "name": "f"}),
        ({"parallel_tool_calls": True}, None),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
        ({"parallel_tool_calls": False, "tool_choice": "none"}, {"type": "none"}),
    ],
)
def test_the_choice_of_tools(body: dict[str, Any], choice: dict[str, Any] | None) -> None:
    assert converted(tools=[TOOL], **body).get("tool_choice") == choice


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"messages": []}, "messages "),
        ({"messages": "Hi"}, "messages "),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages "),
        ({"messages": ["Hi"]}, "messages[0].role"),
        ({"messages": [*ASK, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [5]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].image_url"),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, "messages[0].tool_calls[0]"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": "{"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"arguments": "[1]"}}]}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "x"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": 7}, "tool_choice"),
    ],
)
def test_a_request_that_is_wrong_is_told_where(body: dict[str, Any], where: str) -> None:
    assert rejected(**body).startswith(where)


def test_an_answer_that_calls_tools() -> None:
    blocks: list[dict[str, Any]] = [
        {"type": "thinking", "thinking": "…", "signature": "x"},
        {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    ]
    choice = from_anthropic(message(blocks, "tool_use"), 0)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
            {"id": "t2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
        ],
    }


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
    ],
)
def test_why_it_stopped(stop_reason: str, finish: str) -> None:
    assert from_anthropic(message([], stop_reason), 0)["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"input_tokens": 5},
        {"output_tokens": 5},
        {"input_tokens": "5", "output_tokens": 5},
        {"input_tokens": 5.0, "output_tokens": 5},
        {"input_tokens": True, "output_tokens": 5},
        {"input_tokens": 5, "output_tokens": 5, "cache_read_input_tokens": "1"},
    ],
)
def test_usage_that_is_none_stays_missing(usage: object) -> None:
    assert convert_usage(usage) is None
    assert "usage" not in from_anthropic({"content": [], "usage": usage}, 0)


def test_negative_counts_are_not_believed_later() -> None:
    assert isinstance(read_usage(convert_usage({"input_tokens": -5, "output_tokens": 5})), str)
