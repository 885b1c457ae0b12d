"""Top groups, burn-down, forecast, and why spend changed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.ports import AccountPoint, Interval, SpendRow
from ledger.queries import OTHER, burn_down, forecast, price_and_volume, top

DAY_MS = 86_400_000
MONTH = Interval(0, 30 * DAY_MS)


def row(name: str | None, cost: str, quantity: str = "1", bucket_ms: int | None = None) -> SpendRow:
    return SpendRow((name,), bucket_ms, Decimal(cost), Decimal(cost), Decimal(quantity))


def test_the_dearest_groups_and_the_rest():
    rows = [row("a", "5"), row("b", "3"), row("c", "2"), row(None, "1")]
    assert [(r.group[0], int(r.cost_usd)) for r in top(rows, 2)] == [("a", 5), ("b", 3), (OTHER, 3)]
    assert top(rows, 4) == rows


def test_the_same_groups_in_every_bucket():
    rows = [
        row("a", "5", bucket_ms=0),
        row("b", "1", bucket_ms=0),
        row("b", "9", bucket_ms=1),
        row("c", "2", bucket_ms=1),
    ]
    assert [(r.bucket_ms, r.group[0]) for r in top(rows, 1)] == [(0, "b"), (0, OTHER), (1, "b"), (1, OTHER)]


CELLS = st.tuples(st.sampled_from("abcdef"), st.integers(0, 10**9), st.integers(0, 3))


@given(st.lists(CELLS, max_size=30), st.integers(1, 5))
def test_nothing_is_lost_in_other(cells: list[tuple[str, int, int]], count: int):
    rows = {(name, bucket): row(name, str(cost), bucket_ms=bucket) for name, cost, bucket in cells}.values()
    assert sum(r.cost_usd for r in top(rows, count)) == sum(r.cost_usd for r in rows)


def test_spend_of_a_period_so_far():
    points = [AccountPoint("a", 900_000, 5), AccountPoint("a", 0, 7), AccountPoint("a", 1_800_000, -2)]
    assert [(p.at_ms, p.spent_nano) for p in burn_down(points, 900_000)] == [
        (900_000, 7),
        (1_800_000, 12),
        (2_700_000, 10),
    ]


def test_a_steady_rate_goes_on():
    points = [AccountPoint("a", day * DAY_MS, 100) for day in range(10)]
    found = forecast(points, MONTH, 10 * DAY_MS, 3_500)
    assert found and found.expected_nano == found.low_nano == found.high_nano == 3_000
    assert (found.over, found.samples) == (0.0, 10)
    over = forecast(points, MONTH, 10 * DAY_MS, 2_900)
    assert over and over.over == 1.0


def test_the_more_it_varies_the_less_is_known():
    calm = [AccountPoint("a", day * DAY_MS, 100 + day % 2) for day in range(10)]
    wild = [AccountPoint("a", day * DAY_MS, 200 * (day % 2)) for day in range(10)]
    known, guessed = (forecast(points, MONTH, 10 * DAY_MS, 3_200) for points in (calm, wild))
    assert known and guessed
    assert known.high_nano - known.low_nano < guessed.high_nano - guessed.low_nano
    assert known.over < 0.01 < guessed.over < 0.5


def test_what_has_just_begun_counts():
    """All of it was spent in the hour that is not over yet."""
    found = forecast([AccountPoint("a", 6 * 3_600_000, 130)], Interval(0, DAY_MS), round(6.5 * 3_600_000), 1_000)
    assert found and found.expected_nano == 480


def test_what_is_spent_is_never_unspent():
    points = [AccountPoint("a", 0, 1_000), AccountPoint("a", DAY_MS, 0), AccountPoint("a", 2 * DAY_MS, 0)]
    found = forecast(points, MONTH, 3 * DAY_MS, 10_000)
    assert found and found.low_nano >= 1_000


@pytest.mark.parametrize("now_ms", [0, DAY_MS - 1, 30 * DAY_MS])
def test_nothing_to_draw_from(now_ms: int):
    assert forecast([], MONTH, now_ms, 100) is None


def test_hours_of_a_short_period():
    day = Interval(0, DAY_MS)
    points = [AccountPoint("a", hour * 3_600_000, 10) for hour in range(6)]
    found = forecast(points, day, 6 * 3_600_000, 1_000)
    assert found and (found.expected_nano, found.samples) == (240, 6)


def test_price_and_volume():
    before = [row("a", "10", "100"), row("b", "4", "40"), row("gone", "3", "30")]
    after = [row("a", "30", "150"), row("b", "4", "40"), row("new", "7", "10")]
    found = {c.group[0]: c for c in price_and_volume(before, after)}
    a, gone, new = found["a"], found["gone"], found["new"]
    assert [int(x) for x in (a.volume_usd, a.price_usd, a.delta_usd)] == [5, 15, 20]
    assert found["b"].delta_usd == found["b"].price_usd == found["b"].volume_usd == 0
    assert [int(gone.new_usd), int(new.new_usd)] == [-3, 7]
    assert next(iter(price_and_volume(before, after))).group == ("a",)


@given(*[st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)))] * 2)
def test_the_parts_are_the_change(then: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]):
    before, after = ([row(n, str(c), str(q)) for n, (c, q) in side.items()] for side in (then, now))
    for change in price_and_volume(before, after):
        assert change.price_usd + change.volume_usd + change.new_usd == change.delta_usd


def test_what_has_run_over_will_not_be_back_under():
    day = Interval(0, DAY_MS)
    wild = [AccountPoint("a", hour * 3_600_000, 500 * (hour % 2)) for hour in range(6)]
    assert forecast(wild, day, 6 * 3_600_000, 1_499).over == 1.0  # type: ignore[union-attr]
    assert forecast(wild, day, 6 * 3_600_000, 1_500).over < 1.0  # type: ignore[union-attr]
