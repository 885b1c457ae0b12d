"""Each field of a request is inside the ceiling, without a price, or refused by its name."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from budget.book import BudgetBook
from budget.model import Budget, Candidate
from core.clock import SystemClock
from core.errors import InvalidInput
from core.scope import Chain, Scope
from gateway.call import Call, Operation
from gateway.fields import FIELDS, REFUSED
from gateway.planner import Planner
from routing.health import Health
from routing.model import Routes
from routing.routes_file import default_routes_text, load_routes
from telemetry.prices import PriceBook, default_prices_text, load_prices

ENVIRONMENT = {"DATABRICKS_BASE_URL": "http://x", "DATABRICKS_API_KEY": "x"}
ROUTES = load_routes(default_routes_text(), source="test", environment=ENVIRONMENT)
PRICES = PriceBook(load_prices(default_prices_text(), source="test"))
IN_PICO, OUT_PICO = 750_000, 2_250_000  # of DBRX
HI = {"role": "user", "content": "hi"}
IMAGE = {"type": "image_url", "image_url": {"url": "http://x/y.png"}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}


def ceiling_of(body: dict[str, Any], operation: Operation = "chat", routes: Routes = ROUTES) -> tuple[Candidate, int]:
    """The candidate for the model asked for, and the request's bytes."""
    raw_bytes = len(orjson.dumps(body))
    chain = Chain((Scope("agent", "bot"),))
    call = Call("req_1", "openai", operation, None, body, False, False, raw_bytes, chain, "k", 0, 0.0)
    book = BudgetBook([Budget("b", Scope("agent", "bot"), 10**9)])
    plan, _ = Planner(routes, PRICES, book, Health(SystemClock())).plan(call, 1_795_000_000_000)
    return plan.candidates[0], raw_bytes


def refusal_of(body: dict[str, Any], operation: Operation = "chat") -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        ceiling_of(body, operation)
    return caught.value


#: field -> (value, output tokens per choice, choices).
CHAT: dict[str, tuple[Any, int, int]] = {
    "messages": ([HI, HI], 1024, 1),
    "max_tokens": (77, 77, 1),
    "max_completion_tokens": (78, 78, 1),
    "n": (3, 1024, 3),
    "tools": ([TOOL], 1024, 1),
    "tool_choice": ({"type": "function", "function": {"name": "look_up"}}, 1024, 1),
    "modalities": (["text"], 1024, 1),
    "service_tier": ("default", 1024, 1),
    "reasoning_effort": ("high", 1024, 1),
    "reasoning": ({"effort": "high"}, 1024, 1),
    "thinking": ({"type": "enabled", "budget_tokens": 512}, 1024, 1),
    "response_format": ({"type": "json_schema", "json_schema": {"name": "x" * 500, "schema": {}}}, 1024, 1),
    "chat_template_kwargs": ({"enable_thinking": True}, 1024, 1),
    "guided_json": ({"type": "object"}, 1024, 1),
    "guided_regex": ("a*", 1024, 1),
    "guided_choice": (["a", "b"], 1024, 1),
    "guided_grammar": ("root ::= x", 1024, 1),
    "temperature": (1, 1024, 1),
    "top_p": (1, 1024, 1),
    "top_k": (5, 1024, 1),
    "min_p": (0.1, 1024, 1),
    "presence_penalty": (1, 1024, 1),
    "frequency_penalty": (1, 1024, 1),
    "repetition_penalty": (1, 1024, 1),
    "logit_bias": ({"50256": -100}, 1024, 1),
    "logprobs": (True, 1024, 1),
    "top_logprobs": (20, 1024, 1),
    "stop": (["\n"], 1024, 1),
    "stop_token_ids": ([1], 1024, 1),
    "seed": (1, 1024, 1),
    "min_tokens": (5, 1024, 1),
    "ignore_eos": (True, 1024, 1),
    "parallel_tool_calls": (True, 1024, 1),
    "verbosity": ("low", 1024, 1),
    "user": ("ada", 1024, 1),
    "safety_identifier": ("ada", 1024, 1),
    "metadata": ({"a": "b"}, 1024, 1),
    "store": (True, 1024, 1),
    "prompt_cache_key": ("x", 1024, 1),
    "client_request_id": ("x", 1024, 1),
    "usage_context": ({"a": "b"}, 1024, 1),
}


def test_no_known_field_is_left_out() -> None:
    assert set(CHAT) == FIELDS["chat"]
    assert {field for field, _ in WRONG} >= set(REFUSED)


@pytest.mark.parametrize("field", CHAT)
def test_a_field_is_inside_the_ceiling(field: str) -> None:
    value, tokens, choices = CHAT[field]
    candidate, raw_bytes = ceiling_of({"messages": [HI]} | {field: value})
    assert candidate.base_nano * 1000 >= raw_bytes * IN_PICO, "every byte could be a token"
    assert (candidate.tokens, candidate.out_pico) == (tokens, choices * OUT_PICO)


#: (field as it is named in the refusal, the request's fields).
WRONG: list[tuple[str, dict[str, Any]]] = [
    ("audio", {"audio": {"voice": "alloy", "format": "wav"}}),
    ("best_of", {"best_of": 2}),
    ("cache_control", {"cache_control": {"type": "ephemeral"}}),
    ("function_call", {"function_call": "auto"}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("prediction", {"prediction": {"type": "content", "content": "x"}}),
    ("web_search_options", {"web_search_options": {}}),
    ("surprise", {"surprise": 1}),
    ("max_output_tokens", {"max_output_tokens": 10**6}),
    ("use_beam_search", {"use_beam_search": True}),
    ("service_tier", {"service_tier": "priority"}),
    ("service_tier", {"service_tier": "flex"}),
    ("modalities", {"modalities": ["text", "audio"]}),
    ("modalities", {"modalities": "audio"}),
    ("modalities", {"modalities": 5}),
    ("n", {"n": 0}),
    ("n", {"n": 65}),
    ("n", {"n": True}),
    ("n", {"n": 1.5}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": 1e308}),
    ("max_completion_tokens", {"max_completion_tokens": "10"}),
    ("tools[0].type", {"tools": [{"type": "web_search_preview"}]}),
    ("tools[1].type", {"tools": [TOOL, {"type": "code_interpreter"}]}),
    ("tools[0].type", {"tools": [{"type": "mcp", "server_url": "http://x"}]}),
    ("tools[0].cache_control", {"tools": [TOOL | {"cache_control": {"type": "ephemeral"}}]}),
    ("messages[0].cache_control", {"messages": [HI | {"cache_control": {"type": "ephemeral"}}]}),
    ("messages[0].audio", {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
    ("messages[0].function_call", {"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}),
    ("messages[0].surprise", {"messages": [HI | {"surprise": 1}]}),
    ("messages", {"messages": [{"role": "user", "content": [IMAGE]}]}),
    *(
        (f"messages[0].content{end}", {"messages": [{"role": "user", "content": [part]}]})
        for end, part in [
            ("", {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}),
            ("", {"type": "file", "file": {"file_id": "file_1"}}),
            ("", {"type": "video_url", "video_url": {"url": "http://x"}}),
            ("", {"type": "document"}),
            ("", "no object"),
            (".cache_control", {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}),
        ]
    ),
]


@pytest.mark.parametrize(("field", "fields"), WRONG)
def test_what_can_not_be_bounded_is_refused_by_name(field: str, fields: dict[str, Any]) -> None:
    assert refusal_of({"messages": [HI]} | fields).field == field


@pytest.mark.parametrize("field", [*sorted(REFUSED), "surprise"])
def test_a_field_that_is_null_is_not_given(field: str) -> None:
    ceiling_of({"messages": [HI], field: None})


def test_an_answer_can_be_sent_back_as_it_came() -> None:
    empty: dict[str, Any] = {"refusal": None, "annotations": [], "audio": None, "function_call": None}
    ceiling_of({"messages": [HI, {"role": "assistant", "content": "hello", "tool_calls": None} | empty, HI]})


def test_an_image_is_held_for_at_its_models_bound() -> None:
    seeing = Routes(
        [replace(m, max_tokens_per_image=1500) for m in ROUTES.models],
        ROUTES.endpoints.values(),
    )
    text = {"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * len(orjson.dumps(IMAGE))}]}]}
    images = {"messages": [{"role": "user", "content": [IMAGE, IMAGE]}]}
    with_images, _ = ceiling_of(images, routes=seeing)
    without, _ = ceiling_of(text, routes=seeing)
    assert with_images.base_nano - without.base_nano >= (2 * 1500 - 100) * IN_PICO // 1000


def test_a_tool_is_held_for_with_its_template() -> None:
    plain, plain_bytes = ceiling_of({"messages": [HI]})
    tools, tool_bytes = ceiling_of({"messages": [HI], "tools": [TOOL]})
    assert tools.base_nano - plain.base_nano == (tool_bytes - plain_bytes + 512) * IN_PICO // 1000


def test_the_smaller_of_two_limits_counts() -> None:
    assert ceiling_of({"messages": [HI], "max_tokens": 9, "max_completion_tokens": 7})[0].tokens == 7


@pytest.mark.parametrize("field", sorted(FIELDS["embeddings"] - {"input"}))
def test_a_field_of_embeddings(field: str) -> None:
    candidate, _ = ceiling_of({"input": ["a", "b"], field: "default"}, "embeddings")
    assert candidate.tokens == 0 and candidate.base_nano > 0
    assert refusal_of({"input": "a", "messages": [HI]}, "embeddings").field == "messages"


def test_a_routes_file_lets_more_through() -> None:
    routes = Routes([replace(m, extra_fields=("surprise",)) for m in ROUTES.models], ROUTES.endpoints.values())
    ceiling_of({"messages": [HI], "surprise": 1}, routes=routes)
    with pytest.raises(InvalidInput, match="other is not known"):
        ceiling_of({"messages": [HI], "other": 1}, routes=routes)
