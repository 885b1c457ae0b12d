"""Bytes that a model wrote, and none of what is around them."""

from typing import Any

import pytest

from gateway.sizes import answer_bytes, message_bytes, sent_bytes


def call(**function: Any) -> dict[str, Any]:
    return {"index": 0, "id": "call_0123456789", "type": "function", "function": function}


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (None, 0),
        ({}, 0),
        ({"content": "héllo"}, 6),
        ({"content": None, "reasoning_content": "abc", "refusal": "no"}, 5),
        ({"content": [{"type": "text"}]}, len("[{'type': 'text'}]")),
        ({"tool_calls": [call(name="look", arguments='{"id":1}'), call(arguments="x")]}, 4 + 8 + 1),
        ({"tool_calls": [call(name=None, arguments=None), "odd"]}, 3),
        ({"tool_calls": "odd"}, 0),
    ],
)
def test_of_a_message(message: object, size: int) -> None:
    assert message_bytes(message) == size
    assert answer_bytes({"choices": [{"message": message}, {"message": message}]}) == 2 * size


def test_of_a_request() -> None:
    assert sent_bytes({"messages": [{"role": "user", "content": "héllo"}, {"role": "user"}]}) == 6
    assert sent_bytes({"input": ["ab", "c"]}) == sent_bytes({"input": "abc"}) == 3
