import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.tokens import count_messages, count_tokens, split_tokens

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts)
def test_never_more_tokens_than_bytes_and_nothing_is_lost(text: str) -> None:
    tokens = split_tokens(text)
    assert "".join(tokens) == text
    assert len(tokens) <= len(text.encode())


@given(texts, st.integers(0, 50))
def test_a_cut_off_text_has_the_first_tokens_of_the_whole(text: str, count: int) -> None:
    tokens = split_tokens(text)[:count]
    assert split_tokens("".join(tokens)) == tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("word", 1), ("hello world", 4), ("1234", 2), ("a, b", 3), ("日本", 2), ("\n\n", 2)],
)
def test_counts_by_hand(text: str, tokens: int) -> None:
    assert count_tokens(text) == tokens


def test_a_message_adds_its_template_its_name_and_its_parts() -> None:
    parts = [{"type": "text", "text": "word"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert count_messages([{"role": "user", "content": "word"}], 0) == 5
    assert count_messages([{"role": "user", "name": "bob", "content": parts}], 100) == 4 + 1 + 1 + 100
