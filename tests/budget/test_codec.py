"""Budgets as JSON: stored and read back unchanged, and refused by the name of what is wrong."""

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from budget.codec import (
    BudgetSpec,
    ResetSpec,
    TopUpSpec,
    budget_from_spec,
    dump_budget,
    load_budget,
    parse_spec,
    spec_of,
)
from budget.model import Budget, DowngradeRule, Policy, Reset, TopUp
from core.errors import InvalidInput
from core.money import MAX_LIMIT_NANO
from core.scope import Scope

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
scope_keys = names.filter(str.isprintable)
times_ms = st.integers(0, 2**42)
policies = st.builds(
    Policy,
    soft_cap=st.decimals("0.01", 1, places=4),
    hard_cap=st.decimals(1, 100, places=4),
    downgrade=st.none() | st.lists(st.builds(DowngradeRule, names, names), max_size=3).map(tuple),
    disabled_tools=st.lists(names, max_size=3).map(tuple),
    allow_downgrade=st.booleans(),
    allow_smaller_max_tokens=st.booleans(),
    min_output_tokens=st.integers(1, 1_000_000),
)
top_ups = st.builds(TopUp, names, names, st.none() | names, st.integers(1, MAX_LIMIT_NANO), times_ms, names, times_ms)
resets = st.builds(Reset, names, st.none() | names, names, times_ms)
budgets = st.builds(
    Budget,
    id=st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,63}", fullmatch=True),
    scope=st.builds(Scope, st.sampled_from(["agent", "team", "own_type"]), scope_keys | st.just("*")),
    limit_nano=st.integers(0, MAX_LIMIT_NANO // 100),
    cadence=st.sampled_from(["daily", "total", "every:6h"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin"]),
    policy=policies,
    paused=st.booleans(),
    source=st.sampled_from(["api", "env", "yaml", "edge"]),
    top_ups=st.lists(top_ups, max_size=2).map(tuple),
    resets=st.lists(resets, max_size=2).map(tuple),
    created_ms=times_ms,
    updated_ms=times_ms,
    revision=st.integers(0, 10**9),
)


@given(budgets)
def test_a_budget_is_stored_and_read_back_unchanged(budget: Budget) -> None:
    assert load_budget(dump_budget(budget), revision=budget.revision) == budget


@given(budgets)
def test_what_is_shown_can_be_sent_again(budget: Budget) -> None:
    shown = orjson.loads(orjson.dumps(spec_of(budget)))
    again = budget_from_spec(parse_spec(BudgetSpec, shown), budget_id=budget.id, source="api", now_ms=1)
    assert (again.scope, again.limit_nano, again.policy) == (budget.scope, budget.limit_nano, budget.policy)
    assert spec_of(again) == spec_of(budget)


def spec(**changes: Any) -> dict[str, Any]:
    return {"scopeType": "agent", "scopeKey": "bot", "limitUsd": "12.50"} | changes


def build(data: object) -> Budget:
    return budget_from_spec(parse_spec(BudgetSpec, data), budget_id="b", source="api", now_ms=7)


def test_a_short_spec_has_the_defaults() -> None:
    budget = build(spec())
    assert budget == Budget("b", Scope("agent", "bot"), 12_500_000_000, created_ms=7, updated_ms=7)
    assert (budget.policy.soft_cap, budget.policy.hard_cap) == (Decimal("0.8"), Decimal("1.2"))


@pytest.mark.parametrize("limit", [12.5, "12.5", "12.50"])
def test_money_may_be_text_or_a_number(limit: object) -> None:
    assert build(spec(limitUsd=limit)).limit_nano == 12_500_000_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limitUsd", "NaN"),
        ("limitUsd", "Infinity"),
        ("limitUsd", float("inf")),
        ("limitUsd", True),
        ("limitUsd", None),
        ("limitUsd", "twelve"),
        ("limitUsd", "-0.01"),
        ("limitUsd", "9007199.254740992"),
        ("limitUsd", "9007199"),  # times the hard cap it is too large
        ("softCap", "0"),
        ("softCap", "1.01"),
        ("softCap", "NaN"),
        ("softCap", False),
        ("hardCap", "0.99"),
        ("hardCap", "101"),
        ("hardCap", "inf"),
        ("cadence", "hourly"),
        ("timeZone", "Mars/Base"),
        ("scopeType", "Agent"),
        ("scopeType", 3),
        ("scopeKey", ""),
        ("scopeKey", "a\nb"),
        ("id", "With:Colon"),
        ("minOutputTokens", 0),
        ("paused", "perhaps"),
        ("downgrade", "mixtral"),
        ("disabledTools", [1]),
        ("limitusd", 1),
    ],
)
def test_what_is_wrong_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        build(spec(**{field: value}))
    assert caught.value.field.split(".")[0] == field


def test_what_is_missing_is_named() -> None:
    for field in ("scopeType", "scopeKey", "limitUsd"):
        data = spec()
        del data[field]
        with pytest.raises(InvalidInput) as caught:
            build(data)
        assert caught.value.field == field


def test_a_rule_inside_a_list_is_named_by_its_place() -> None:
    with pytest.raises(InvalidInput) as caught:
        build(spec(downgrade=[{"from": "*", "to": "mixtral"}, {"from": "*"}]))
    assert caught.value.field == "downgrade.1.to"


@pytest.mark.parametrize("data", [None, [], "x", 1])
def test_a_budget_is_an_object(data: object) -> None:
    with pytest.raises(InvalidInput, match="body must be a JSON object"):
        build(data)


@pytest.mark.parametrize(
    ("model", "data", "field"),
    [
        (TopUpSpec, {"amountUsd": "x", "reason": "r"}, "amountUsd"),
        (TopUpSpec, {"amountUsd": "1", "reason": ""}, "reason"),
        (ResetSpec, {}, "reason"),
    ],
)
def test_top_ups_and_resets_name_what_is_wrong(model: Any, data: object, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_spec(model, data)
    assert caught.value.field == field


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"spec":{}}', b"\xff"])
def test_what_was_not_stored_by_us_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        load_budget(text, revision=1)


def test_budgets_with_the_same_terms_share_them_and_nothing_else() -> None:
    first = Budget("one", Scope("agent", "a"), 10**9, policy=Policy(hard_cap=Decimal(2)), created_ms=1, updated_ms=2)
    other = Budget("two", Scope("team", "b"), 10**9, policy=Policy(hard_cap=Decimal(2)), source="yaml")
    read, beside = (load_budget(dump_budget(b), revision=b.updated_ms) for b in (first, other))
    assert (read.id, read.scope, read.source, read.created_ms, read.revision) == ("one", first.scope, "api", 1, 2)
    assert (beside.id, beside.scope, beside.source, beside.created_ms, beside.revision) == (
        "two",
        other.scope,
        "yaml",
        0,
        0,
    )
    assert read.policy == beside.policy == first.policy
    again = load_budget(dump_budget(Budget("three", Scope("agent", "c"), 10**9, policy=first.policy)), revision=0)
    assert again.policy is read.policy, "a hundred thousand of them take little memory"


@pytest.mark.parametrize("budget_id", ["", "Upper", "with space", "one\n", None, 7])
def test_a_stored_budget_has_an_id(budget_id: object) -> None:
    stored = orjson.loads(dump_budget(Budget("one", Scope("agent", "a"), 10**9)))
    stored["spec"]["id"] = budget_id
    with pytest.raises(InvalidInput, match="was not stored by this program"):
        load_budget(orjson.dumps(stored), revision=1)
