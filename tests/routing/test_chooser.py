from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError, NotFound
from routing.chooser import Chooser, default_rules
from routing.model import Endpoint, Model, ModelRole, Routes

#: From dear to cheap; `e` and `f` are embedding models.
COST = {"a": 5, "b": 4, "c": 3, "d": 2, "e": 5, "f": 1}
MODELS = [
    Model(name, "x", name, kind="embedding" if name in "ef" else "chat", aliases=(f"alias-{name}",)) for name in COST
]
ROUTES = Routes(MODELS, [Endpoint("x", "openai", "http://x")])


def costs_more(one: Model, other: Model) -> bool:
    return COST[one.name] > COST[other.name]


def chooser(asked: str, *rule_sets: list[tuple[str, str]]) -> Chooser:
    return Chooser(ROUTES, ROUTES.find(asked), rule_sets, costs_more)


def names(asked: str, *rule_sets: list[tuple[str, str]]) -> str:
    return "".join(model.name for model in chooser(asked, *rule_sets).candidates())


def allowed(asked: str, *rule_sets: list[tuple[str, str]]) -> list[str]:
    """For each rule set the models that its budget is content with, of the candidates."""
    made = chooser(asked, *rule_sets)
    return [
        "".join(m.name for m in made.candidates() if made.allowed_when_degraded(number, m))
        for number in range(len(rule_sets))
    ]


@pytest.mark.parametrize(
    ("asked", "rules", "candidates", "content_with"),
    [
        ("a", [], "a", "a"),
        ("a", [("a", "b")], "ab", "b"),
        ("b", [("a", "b")], "b", "b"),
        ("a", [("a", "b"), ("b", "c"), ("c", "d")], "abcd", "bcd"),
        ("b", [("a", "b"), ("b", "c"), ("c", "d")], "bcd", "cd"),
        ("a", [("b", "c"), ("a", "b")], "abc", "bc"),
        ("a", [("a", "b"), ("a", "c")], "ab", "b"),  # the first rule that fits
        ("d", [("d", "a")], "da", "a"),  # a rule by name may go to a dearer model: that was somebody's wish
    ],
)
def test_chains(asked: str, rules: list[tuple[str, str]], candidates: str, content_with: str) -> None:
    assert names(asked, rules) == candidates
    assert allowed(asked, rules) == [content_with]


@pytest.mark.parametrize(
    ("asked", "rules", "candidates", "content_with"),
    [
        ("a", [("*", "c")], "ac", "c"),
        ("b", [("*", "c")], "bc", "c"),
        ("c", [("*", "c")], "c", "c"),
        ("d", [("*", "c")], "d", "d"),  # cheaper already
        ("a", [("*", "c"), ("c", "d")], "acd", "cd"),
        ("d", [("*", "c"), ("c", "d")], "d", "d"),
        ("a", [("a", "b"), ("*", "d")], "abd", "bd"),
        ("c", [("a", "b"), ("*", "d")], "cd", "d"),
        ("a", [("*", "c"), ("*", "d")], "acd", "cd"),
    ],
)
def test_a_star_leads_to_cheaper_models_only(
    asked: str, rules: list[tuple[str, str]], candidates: str, content_with: str
) -> None:
    assert names(asked, rules) == candidates
    assert allowed(asked, rules) == [content_with]


@pytest.mark.parametrize(
    ("asked", "rules", "candidates", "content_with"),
    [
        ("a", [("a", "a")], "a", "a"),
        ("a", [("a", "b"), ("b", "a")], "ab", "b"),
        ("b", [("a", "b"), ("b", "a")], "ba", "a"),
        ("a", [("a", "b"), ("b", "c"), ("c", "b")], "abc", "bc"),
        ("a", [("a", "b"), ("b", "c"), ("c", "a")], "abc", "bc"),
    ],
)
def test_cycles_end(asked: str, rules: list[tuple[str, str]], candidates: str, content_with: str) -> None:
    assert names(asked, rules) == candidates
    assert allowed(asked, rules) == [content_with]


@pytest.mark.parametrize(
    "rules",
    [
        [("a", "gone")],
        [("gone", "b")],
        [("a", "e")],  # an embedding model is no answer to a chat
        [("*", "f")],
    ],
)
def test_a_rule_that_leads_nowhere_has_no_effect(rules: list[tuple[str, str]]) -> None:
    assert names("a", rules) == "a"
    assert allowed("a", rules) == ["a"]
    assert names("a", [*rules, ("a", "b")]) == "ab"


def test_embeddings_have_chains_of_their_own() -> None:
    assert names("e", [("*", "b"), ("*", "f")]) == "ef"


def test_aliases_are_names() -> None:
    assert names("alias-a", [("alias-a", "alias-b"), ("b", "alias-c")]) == "abc"


def test_several_budgets() -> None:
    one, other = [("a", "b")], [("a", "c"), ("b", "d")]
    assert names("a", one, other) == "abcd"
    # The one has no rule about c and d, so it is content with them; the other would send b on to d.
    assert allowed("a", one, other) == ["bcd", "cd"]
    assert names("a", other, one) == "acbd"
    assert allowed("a", [], one) == ["ab", "b"]  # without rules everything is fine


RULE = st.tuples(st.sampled_from([*COST, "*", "gone", "alias-b"]), st.sampled_from([*COST, "gone", "alias-c"]))
RULES = st.lists(RULE, max_size=6)


@given(asked=st.sampled_from(sorted(COST)), rule_sets=st.lists(RULES, min_size=1, max_size=3))
def test_a_degraded_budget_is_never_left_without_a_model(asked: str, rule_sets: list[list[tuple[str, str]]]) -> None:
    made = chooser(asked, *rule_sets)
    candidates = made.candidates()
    assert candidates[0].name == asked
    assert len(candidates) == len(set(candidates))
    assert {m.kind for m in candidates} == {ROUTES.find(asked).kind}
    for number in range(len(rule_sets)):
        content_with = [m for m in candidates if made.allowed_when_degraded(number, m)]
        assert content_with
        # Where a rule applies, what was asked for is no longer fine; where none does, it is.
        applies = len(chooser(asked, rule_sets[number]).candidates()) > 1
        assert (candidates[0] in content_with) is not applies


@given(asked=st.sampled_from(sorted(COST)), targets=st.lists(st.sampled_from(sorted(COST)), max_size=4))
def test_stars_never_make_a_call_dearer(asked: str, targets: list[str]) -> None:
    costs = [COST[m.name] for m in chooser(asked, [("*", t) for t in targets]).candidates()]
    assert costs == sorted(set(costs), reverse=True)


def with_roles(**roles: str) -> Routes:
    """Chat models by name with role and priority, as in ``b="fallback 2"``."""
    models = []
    for name, text in roles.items():
        role, _, priority = text.partition(" ")
        models.append(Model(name, "x", name, role=ModelRole(role), priority=int(priority or 1)))
    return Routes(models, [Endpoint("x", "openai", "http://x")])


def test_the_default_rules_are_the_fallbacks_by_priority() -> None:
    routes = with_roles(a="primary", b="fallback 2", c="fallback 1", d="other")
    assert default_rules(routes, routes.find("a")) == [("*", "c"), ("c", "b")]
    assert default_rules(routes, routes.find("d")) == [("*", "c"), ("c", "b")]
    assert default_rules(routes, routes.find("c")) == [("*", "b")]
    assert default_rules(routes, routes.find("b")) == []


def test_no_fallback_no_rules() -> None:
    routes = with_roles(a="primary", d="other")
    assert default_rules(routes, routes.find("a")) == []


def test_look_ups() -> None:
    routes = with_roles(b="primary 2", a="primary 1", c="fallback")
    assert routes.primary().name == "a"
    with pytest.raises(NotFound, match="no primary embedding model"):
        routes.primary("embedding")
    with pytest.raises(NotFound, match="known models: a, c, b"):
        routes.find("z")


def test_two_models_of_one_name() -> None:
    endpoint = Endpoint("x", "openai", "http://x")
    for first, second in product([Model("n", "x", "1"), Model("m", "x", "1", aliases=("n",))], repeat=2):
        with pytest.raises(ConfigError, match="two models are called"):
            Routes([first, second], [endpoint])
