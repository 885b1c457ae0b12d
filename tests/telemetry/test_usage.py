from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.usage import ExactUsage, Tokens, estimate_tokens, read_usage


def usage(prompt: object = 10, completion: object = 5, **details: object) -> dict[str, Any]:
    """OpenAI's shape: `cached` and `written` inside the prompt, `reasoning` inside the completion."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {
            "cached_tokens": details.get("cached"),
            "cache_write_tokens": details.get("written"),
        },
        "completion_tokens_details": {"reasoning_tokens": details.get("reasoning")},
    }


def tokens_of(value: object) -> Tokens:
    read = read_usage(value)
    assert isinstance(read, ExactUsage), read
    return read.tokens


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, Tokens(input=10, output=5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": None}, Tokens(input=10, output=5)),
        ({"prompt_tokens": 10, "total_tokens": 10}, Tokens(input=10)),  # embeddings
        ({"prompt_tokens": 10, "completion_tokens": None}, Tokens(input=10)),
        (usage(), Tokens(input=10, output=5)),
        (usage(cached=4), Tokens(input=6, cached_input=4, output=5)),
        (usage(cached=10), Tokens(cached_input=10, output=5)),
        (usage(cached=4, written=6), Tokens(cached_input=4, cache_write=6, output=5)),
        (usage(reasoning=3), Tokens(input=10, output=2, reasoning=3)),
        (usage(reasoning=5), Tokens(input=10, reasoning=5)),
        (usage(completion=0), Tokens(input=10)),
        (usage(prompt=20_000_000), Tokens(input=20_000_000, output=5)),
        (usage() | {"total_tokens": "nonsense", "anything": [1]}, Tokens(input=10, output=5)),
    ],
)
def test_classes_are_disjoint(value: object, tokens: Tokens) -> None:
    assert tokens_of(value) == tokens


@pytest.mark.parametrize("nothing", [None, [], "10", 7, True])
def test_no_usage(nothing: object) -> None:
    assert read_usage(nothing) == "the answer has no usage"


ODD = [
    -1,
    "NaN",
    "10",
    "",
    True,
    False,
    10.0,
    0.5,
    float("nan"),
    float("inf"),
    20_000_001,
    10**30,
    [],
    {},
    [1],
    {"a": 1},
]


@pytest.mark.parametrize("odd", ODD, ids=repr)
@pytest.mark.parametrize("field", ["prompt", "completion", "cached", "written", "reasoning"])
def test_a_count_that_is_none_is_not_believed(field: str, odd: object) -> None:
    assert read_usage(usage(**{field: odd})) == "the usage of the answer is no count of tokens"


@pytest.mark.parametrize("details", [7, "x", [1], True])
@pytest.mark.parametrize("field", ["prompt_tokens_details", "completion_tokens_details"])
def test_details_that_are_none_are_not_believed(field: str, details: object) -> None:
    assert isinstance(read_usage(usage() | {field: details}), str)


@pytest.mark.parametrize("value", [{}, {"total_tokens": 5}, usage(prompt=0), usage(prompt=0, completion=0)])
def test_a_call_that_sent_text_did_not_use_zero_tokens(value: object) -> None:
    assert read_usage(value) == "the usage of the answer says that nothing was sent"


def test_unless_nothing_was_sent() -> None:
    assert read_usage(usage(prompt=0), has_input=False) == ExactUsage(Tokens(output=5))


@pytest.mark.parametrize(
    "value",
    [usage(cached=11), usage(written=11), usage(cached=6, written=5), usage(reasoning=6)],
)
def test_a_part_is_not_larger_than_the_whole(value: object) -> None:
    assert read_usage(value) == "the usage of the answer contradicts itself"


COUNT = st.integers(0, 1000)


@given(whole=COUNT, cached=COUNT, written=COUNT, completion=COUNT, reasoning=COUNT)
def test_no_token_is_lost_or_counted_twice(
    whole: int, cached: int, written: int, completion: int, reasoning: int
) -> None:
    read = read_usage(usage(whole, completion, cached=cached, written=written, reasoning=reasoning))
    if isinstance(read, ExactUsage):
        tokens = read.tokens
        assert (tokens.all_input, tokens.all_output) == (whole, completion)
        assert min(tokens.input, tokens.cached_input, tokens.cache_write, tokens.output, tokens.reasoning) >= 0
    else:
        assert whole == 0 or cached + written > whole or reasoning > completion


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(list(usage())), inner, max_size=4),
    max_leaves=6,
)
DETAILS = st.dictionaries(st.sampled_from(["cached_tokens", "cache_write_tokens", "reasoning_tokens"]), JSON)


@given(value=JSON | st.dictionaries(st.sampled_from(list(usage())), JSON | DETAILS))
def test_whatever_comes_it_is_read_or_refused(value: object) -> None:
    read = read_usage(value)
    assert isinstance(read, str) or 0 < read.tokens.all_input <= 20_000_000


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (3, 1), (4, 2), (300, 100), (301, 101)])
def test_an_estimate_is_never_zero_for_a_text(size: int, tokens: int) -> None:
    assert estimate_tokens(size) == tokens
