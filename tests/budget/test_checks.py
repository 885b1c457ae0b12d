"""What no store may be asked for: the bounds, to the nano-dollar, and the name of what breaks them."""

from dataclasses import replace

import pytest

from budget.checks import check_request, check_resolution
from budget.model import Candidate, NextHold, Resolution, ResolveMode
from core.errors import InvalidInput
from core.money import MAX_LIMIT_NANO
from tests.budget.builders import ask, fixed, terms

NOTHING = Candidate("m", 0, 0, 0, 0, "1")
TOO_LARGE = "ceiling: is too large: ask for fewer output tokens"
END = Resolution("h1", ResolveMode.SETTLE, ("b:total:bot",))


def broken(*candidates: Candidate) -> tuple[str, str]:
    """(field, rule) that these candidates break."""
    with pytest.raises(InvalidInput) as caught:
        check_request(ask("h1", [terms()], *candidates))
    return caught.value.field, caught.value.rule


def test_a_call_may_cost_nothing_at_all() -> None:
    check_request(ask("h1", [terms()], NOTHING))


@pytest.mark.parametrize("watched", ["", "11"])
def test_a_candidate_has_one_mark_per_account(watched: str) -> None:
    assert broken(fixed(1, watched)) == ("watched", "must have one mark per account")


@pytest.mark.parametrize("parts", [(-1, 5, 5, 5), (5, -1, 5, 5), (5, 5, -1, 5), (5, 5, 5, -1)])
def test_no_part_of_a_ceiling_is_negative(parts: tuple[int, int, int, int]) -> None:
    candidate = Candidate("m", *parts, "1")
    assert broken(candidate) == ("ceiling", "must not be negative")


@pytest.mark.parametrize(
    "largest",
    [
        Candidate("m", MAX_LIMIT_NANO, 0, 0, 0, "1"),
        Candidate("m", MAX_LIMIT_NANO - 6, 2, 3, 1, "1"),
        Candidate("m", MAX_LIMIT_NANO - 6, 2, 1, 3, "1"),  # the longer of what is asked for and what is accepted
        Candidate("m", MAX_LIMIT_NANO - 3, 0, 3, 1, "1"),  # tokens are bounded too where they cost nothing
        Candidate("m", MAX_LIMIT_NANO - 3, 1, 3, 1, "1"),
    ],
)
def test_a_ceiling_is_below_2_to_the_53(largest: Candidate) -> None:
    check_request(ask("h1", [terms()], largest))
    over = replace(largest, base_nano=largest.base_nano + 1)
    assert ": ".join(broken(over)) == TOO_LARGE
    assert ": ".join(broken(NOTHING, over)) == TOO_LARGE, "every candidate is looked at"


@pytest.mark.parametrize("cost", [0, 1, MAX_LIMIT_NANO])
def test_a_cost_and_the_next_hold_may_be_anything_below_2_to_the_53(cost: int) -> None:
    check_resolution(replace(END, cost_nano=cost))
    check_resolution(replace(END, next_hold=NextHold("h2", cost)))


@pytest.mark.parametrize("cost", [-1, MAX_LIMIT_NANO + 1])
def test_a_cost_or_a_next_hold_out_of_range_is_named(cost: int) -> None:
    rule = "must be from 0 to below 2**53 nano-dollars"
    for field, resolution in (
        ("cost", replace(END, cost_nano=cost)),
        ("nextHold", replace(END, next_hold=NextHold("h2", cost))),
    ):
        with pytest.raises(InvalidInput) as caught:
            check_resolution(resolution)
        assert (caught.value.field, caught.value.rule) == (field, rule)
