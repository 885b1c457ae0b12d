from typing import Any

import orjson
import pytest

from simulator.answers import embedding, example_of
from simulator.chat import answer_body, plan_chat, stream_events
from simulator.embeddings import plan_embeddings
from simulator.errors import CallError
from simulator.settings import ModelSettings
from simulator.tokens import count_json, count_tokens

MODEL = ModelSettings()
ASK = [{"role": "user", "content": "How do I roast a chicken, 20 minutes a pound?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "kelvin"]},
                "days": {"type": "integer", "minimum": 3},
                "note": {"type": "string"},
            },
            "required": ["city", "unit", "days"],
        },
    },
}


def plan(body: dict[str, Any], wanted: int | None = None, model: ModelSettings = MODEL) -> Any:
    return plan_chat({"messages": ASK, **body}, model, wanted, "id")


@pytest.mark.parametrize("wanted", [None, 0, 1, 50, 1000])
@pytest.mark.parametrize("n", [1, 3])
def test_the_text_has_as_many_tokens_as_are_billed(wanted: int | None, n: int) -> None:
    made = plan({"n": n}, wanted)
    body = answer_body(made, "id", 0, "m")
    texts = [choice["message"]["content"] for choice in body["choices"]]
    assert len(texts) == n
    assert wanted is not None or len(set(texts)) == n
    assert sum(map(count_tokens, texts)) == body["usage"]["completion_tokens"]
    if wanted is not None:
        assert body["usage"]["completion_tokens"] == n * wanted


def test_max_tokens_cuts_and_says_so() -> None:
    made = plan({"max_tokens": 7}, 100)
    assert made.completion_tokens == 7
    assert made.choices[0].finish_reason == "length"
    assert plan({"max_completion_tokens": 100}, 100).choices[0].finish_reason == "stop"


def test_a_model_that_ignores_max_tokens_goes_on() -> None:
    made = plan({"max_tokens": 7}, 100, ModelSettings(ignores_max_tokens=True))
    assert made.completion_tokens == 100


def test_a_stop_text_ends_the_answer() -> None:
    made = plan({"stop": ["roast"]})
    text = "".join(made.choices[0].tokens)
    assert text == "You asked: 'How do I " and made.completion_tokens == count_tokens(text)


@pytest.mark.parametrize("body", [{}, {"n": 2}, {"tools": [WEATHER]}, {"tools": [WEATHER], "max_tokens": 5}])
@pytest.mark.parametrize("tokens_per_chunk", [1, 4, 1000])
def test_a_stream_says_and_bills_what_the_whole_answer_does(body: dict[str, Any], tokens_per_chunk: int) -> None:
    made = plan(body)
    events = list(stream_events(made, {"id": "x"}, tokens_per_chunk))
    assert sum(tokens for _, tokens in events) == made.completion_tokens
    said = [""] * len(made.choices)
    for event, _ in events:
        choice = orjson.loads(event.removeprefix(b"data: "))["choices"][0]
        delta = choice["delta"]
        said[choice["index"]] += delta.get("content") or ""
        for call in delta.get("tool_calls", ()):
            said[choice["index"]] += call["function"]["arguments"]
    assert said == ["".join(choice.tokens) for choice in made.choices]


def test_a_tool_is_called_with_its_required_properties() -> None:
    made = plan({"tools": [WEATHER]})
    choice = made.choices[0]
    assert (choice.tool_name, choice.finish_reason) == ("get_weather", "tool_calls")
    arguments = orjson.loads("".join(choice.tokens))
    assert arguments == {"city": "example city", "unit": "celsius", "days": 3}
    assert made.prompt_tokens == plan({}).prompt_tokens + count_json([WEATHER])
    assert made.completion_tokens == count_tokens("get_weather") + count_tokens("".join(choice.tokens))


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 5, 8])
def test_a_tool_call_keeps_to_max_tokens(max_tokens: int) -> None:
    made = plan({"tools": [WEATHER], "max_tokens": max_tokens})
    assert made.completion_tokens == max_tokens
    assert made.choices[0].finish_reason == "length"


def test_no_tool_is_called_when_not_wanted_or_after_its_result() -> None:
    assert plan({"tools": [WEATHER], "tool_choice": "none"}).choices[0].tool_name is None
    after = [*ASK, {"role": "tool", "tool_call_id": "c", "content": "sunny"}]
    assert plan({"tools": [WEATHER], "messages": after}).choices[0].tool_name is None
    assert plan({"tools": [WEATHER], "messages": after, "tool_choice": "required"}).choices[0].tool_name


def test_a_named_tool_is_the_one_called() -> None:
    other = {"type": "function", "function": {"name": "other"}}
    chosen = {"type": "function", "function": {"name": "other"}}
    assert plan({"tools": [WEATHER, other], "tool_choice": chosen}).choices[0].tool_name == "other"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "wizard"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "image_url"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 6}, "n must"),
        ({"tools": [{}]}, "tools"),
        ({"tools": [WEATHER], "tool_choice": {"function": {"name": "x"}}}, "tool_choice"),
        ({"stream_options": {}}, "stream_options"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(CallError, match=field) as caught:
        plan(body)
    assert (caught.value.status, caught.value.error_code) == (400, "INVALID_PARAMETER_VALUE")


def test_stream_options_are_refused_by_name_where_they_are_not_accepted() -> None:
    strict = ModelSettings(accepts_stream_options=False)
    with pytest.raises(CallError, match="stream_options"):
        plan({"stream": True, "stream_options": {"include_usage": True}}, model=strict)


def test_examples_follow_the_schema() -> None:
    assert example_of({"type": "array", "items": {"type": "boolean"}, "minItems": 2}) == [True, True]
    assert example_of({"anyOf": [{"type": "null"}, {"type": "string"}]}) is None
    loop: dict[str, Any] = {"type": "object", "required": ["next"], "properties": {}}
    loop["properties"]["next"] = loop
    assert example_of(loop)["next"]["next"] is not None


def test_an_embedding_follows_from_its_text() -> None:
    assert embedding("a", 8) == embedding("a", 8) != embedding("b", 8)
    assert abs(sum(x * x for x in embedding("a", 1024)) - 1) < 1e-4
    assert plan_embeddings({"input": ["word", "hello world"]}).prompt_tokens == 1 + 4 + 2 * 2
    assert plan_embeddings({"input": [[1, 2, 3]]}).prompt_tokens == 3 + 2
