"""Scopes as they come from outside, and the order of a chain."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.scope import SCOPE_TYPES, Scope, ordered_chain, parse_scope, parse_scope_text

types = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
keys = st.text(min_size=1, max_size=256).filter(lambda k: k.isprintable() and k != "*")


@given(types, keys)
def test_a_scope_is_read_back_from_its_parts(scope_type: str, key: str) -> None:
    assert parse_scope("scope", scope_type, key) == Scope(scope_type, key)


@given(types, keys.filter(lambda k: k == k.strip()))
def test_a_scope_is_read_back_from_its_text(scope_type: str, key: str) -> None:
    assert parse_scope_text("scope", str(Scope(scope_type, key))) == Scope(scope_type, key)


@given(st.text() | st.none() | st.integers(), st.text() | st.none() | st.integers())
def test_anything_is_a_scope_or_refused_by_name(scope_type: object, key: object) -> None:
    try:
        scope = parse_scope("scope", scope_type, key)
    except InvalidInput as error:
        assert error.field in ("scopeType", "scopeKey")
        return
    assert "\n" not in scope.key
    assert "\x00" not in scope.key
    assert ":" not in scope.type


@pytest.mark.parametrize("key", ["a\nb", "a\x00b", "\x1b[0m", "a\u2028b", "\u200b", "\ud800", "", "x" * 257, "*"])
def test_keys_that_are_none(key: str) -> None:
    with pytest.raises(InvalidInput, match="scopeKey"):
        parse_scope("scope", "agent", key)


@pytest.mark.parametrize("scope_type", ["", "Agent", "1x", "a-b", "a:b", "x" * 33, None, "agent\n"])
def test_types_that_are_none(scope_type: object) -> None:
    with pytest.raises(InvalidInput, match="scopeType"):
        parse_scope("scope", scope_type, "bot")


def test_the_wildcard_is_for_budgets_only() -> None:
    assert parse_scope("scope", "agent", "*", wildcard=True).is_wildcard
    assert not parse_scope("scope", "agent", "a*").is_wildcard


def test_text_splits_at_the_first_colon() -> None:
    assert parse_scope_text("x", "agent : a:b ") == Scope("agent", "a:b")
    with pytest.raises(InvalidInput, match="must look like type:key"):
        parse_scope_text("x", "agent")


@given(st.lists(st.sampled_from([*SCOPE_TYPES, "branch", "zone"]), unique=True).flatmap(st.permutations))
def test_a_chain_goes_from_narrow_to_wide_whatever_came_first(order: list[str]) -> None:
    chain = [s.type for s in ordered_chain({t: Scope(t, "k") for t in order})]
    assert chain == [t for t in (*SCOPE_TYPES, "branch", "zone") if t in order]
