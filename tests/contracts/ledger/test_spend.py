"""Spend, as the oracle has it, to the last digit."""

import itertools
from decimal import Decimal

import pytest

from core.errors import InvalidInput
from ledger.model import Batch, Position
from ledger.ports import CHARGE_DIMENSIONS, Bucket, Filter, Interval, LedgerStore, SpendAsk
from tests.contracts.ledger.conftest import Full
from tests.ledger import oracle
from tests.ledger.events import DAY_MS, HOUR_MS, START_MS, Stream

ALL_TIME = Interval(0, 2**42)
#: Neither end is on a quarter of an hour, nor on the same part of one.
CROOKED = Interval(START_MS + 1_234, START_MS + 27 * HOUR_MS + 500_000)
ZONES = ["UTC", "Asia/Kolkata", "Asia/Kathmandu", "Europe/Berlin", "America/St_Johns"]
#: 2026-10-24 20:00 UTC; in the night that follows, clocks in Europe are set back at 01:00 UTC.
CLOCKS_BACK_MS = 1_792_872_000_000
#: 2026-03-28 20:00 UTC: set forward.
CLOCKS_FORWARD_MS = 1_774_728_000_000


def filled(store: LedgerStore, stream: Stream) -> list[Batch]:
    """All of a stream, in several batches, so that sums are merged."""
    batches: list[Batch] = []
    while store.position().sequence < len(stream.events):
        batches.append(stream.batch(store.position(), 9))
        store.append(batches[-1])
    return batches


def check(store: LedgerStore, oracle_of_it: oracle.Oracle, ask: SpendAsk) -> None:
    """The store says what the oracle says, and that is something."""
    expected = oracle_of_it.spend(ask)
    assert sorted(store.spend(ask), key=oracle.by_group) == expected
    assert expected


@pytest.mark.parametrize("dimension", [*CHARGE_DIMENSIONS, "agent", "team", "user", "org", "session", "task", "nobody"])
def test_by_every_dimension_and_type_of_scope(full: Full, dimension: str) -> None:
    check(full.store, full.expected, SpendAsk(ALL_TIME, (dimension,)))
    check(full.store, full.expected, SpendAsk(CROOKED, (dimension, "agent", "meter")))


def test_in_whole_it_is_what_was_posted(full: Full) -> None:
    [row] = full.store.spend(SpendAsk(ALL_TIME))
    nano = sum(int(f["delta_nano"]) for _, f in full.events if "delta_nano" in f)
    assert row.cost_usd == Decimal(nano).scaleb(-9)
    assert (row.group, row.bucket_ms) == ((), None)
    assert row.list_cost_usd < row.cost_usd  # less what rounding added


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("bucket", ["hour", "day", "week", "month"])
def test_buckets_are_of_a_time_zone(full: Full, bucket: Bucket, zone: str) -> None:
    check(full.store, full.expected, SpendAsk(ALL_TIME, ("agent",), bucket, zone))
    check(full.store, full.expected, SpendAsk(CROOKED, (), bucket, zone))
    check(full.store, full.expected, SpendAsk(CROOKED, ("session",), bucket, zone))


@pytest.mark.parametrize("start_ms", [CLOCKS_BACK_MS, CLOCKS_FORWARD_MS])
@pytest.mark.parametrize("bucket", ["hour", "day"])
def test_buckets_of_a_night_in_which_clocks_change(store: LedgerStore, bucket: Bucket, start_ms: int) -> None:
    stream = Stream(now_ms=start_ms)
    for _ in range(44):
        stream.settle(stream.hold())
        stream.now_ms += HOUR_MS // 2
    batches = filled(store, stream)
    check(store, oracle.Oracle(batches), SpendAsk(ALL_TIME, (), bucket, "Europe/Berlin"))
    rows = sorted(row.bucket_ms or 0 for row in store.spend(SpendAsk(ALL_TIME, (), "hour", "Europe/Berlin")))
    assert {later - earlier for earlier, later in itertools.pairwise(rows)} == {HOUR_MS}


def test_a_day_with_a_change_of_clocks_is_longer(store: LedgerStore) -> None:
    stream = Stream(now_ms=CLOCKS_BACK_MS)
    for _ in range(30):
        stream.settle(stream.hold())
        stream.now_ms += HOUR_MS
    filled(store, stream)
    rows = sorted(row.bucket_ms or 0 for row in store.spend(SpendAsk(ALL_TIME, (), "day", "Europe/Berlin")))
    assert [later - earlier for earlier, later in itertools.pairwise(rows)] == [DAY_MS, 25 * HOUR_MS]


@pytest.mark.parametrize(
    "interval",
    [
        CROOKED,
        Interval(START_MS, START_MS + 1),
        Interval(START_MS + 100, START_MS + 899_999),
        Interval(START_MS + 899_999, START_MS + 900_001),
        Interval(START_MS + 1, START_MS + 900_000),
        Interval(START_MS + 5, START_MS + 5),
        Interval(START_MS + DAY_MS, START_MS),
    ],
    ids=str,
)
def test_any_interval_has_its_end_outside(full: Full, interval: Interval) -> None:
    for groups in ((), ("agent",), ("session",)):
        ask = SpendAsk(interval, groups)
        assert sorted(full.store.spend(ask), key=oracle.by_group) == full.expected.spend(ask)


@pytest.mark.parametrize(
    "filters",
    [
        (Filter("agent", ("bot",)),),
        (Filter("agent", ("bot", "scout")), Filter("team", ("ops",))),
        (Filter("team", (None,)),),
        (Filter("team", (None, "ops")),),
        (Filter("user", ("ann", None)), Filter("meter", ("Input", "Correction"))),
        (Filter("session", ("s1",)),),
        (Filter("session", (None,)), Filter("model", ("dbrx", None))),
        (Filter("model", (None,)),),
        (Filter("provider", ("Anthropic",)), Filter("basis", ("metered",))),
        (Filter("source", ("webhook",)),),
    ],
    ids=str,
)
def test_filters_are_all_to_hold(full: Full, filters: tuple[Filter, ...]) -> None:
    for interval in (ALL_TIME, CROOKED):
        check(full.store, full.expected, SpendAsk(interval, (), filters=filters))
        check(full.store, full.expected, SpendAsk(interval, ("agent", "model"), "day", "Asia/Kolkata", filters))


@pytest.mark.parametrize(
    "filters",
    [(Filter("agent", ("nobody",)),), (Filter("agent", ()),), (Filter("meter", ("Input'; DROP TABLE charges",)),)],
    ids=str,
)
def test_what_nothing_matches_has_no_rows(full: Full, filters: tuple[Filter, ...]) -> None:
    assert full.store.spend(SpendAsk(ALL_TIME, (), filters=filters)) == []


@pytest.mark.parametrize("name", ["Agent", "agent'", "", "a b", "x" * 33])
def test_an_unknown_dimension_is_refused(full: Full, name: str) -> None:
    with pytest.raises(InvalidInput):
        full.store.spend(SpendAsk(ALL_TIME, (name,)))
    with pytest.raises(InvalidInput):
        full.store.spend(SpendAsk(ALL_TIME, (), filters=(Filter(name, ("a",)),)))


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "", "../UTC", "Europe"])
def test_an_unknown_zone_is_refused(full: Full, zone: str) -> None:
    with pytest.raises(InvalidInput):
        full.store.spend(SpendAsk(ALL_TIME, (), "day", zone))


def test_keys_of_any_text_stay_as_they_are(store: LedgerStore) -> None:
    stream = Stream()
    odd = ["it's", 'a "b"', "ü:ö", "back\\slash", "a/b", "{}", "%s$1?", "spa ce"]
    for agent in odd:
        stream.settle(stream.hold(agent, session=agent))
    batches = filled(store, stream)
    for groups in (("agent",), ("session",)):
        check(store, oracle.Oracle(batches), SpendAsk(ALL_TIME, groups))
    found = store.spend(SpendAsk(ALL_TIME, ("agent",), filters=(Filter("agent", tuple(odd)),)))
    assert sorted(row.group[0] or "" for row in found) == sorted(odd)


def test_the_largest_sums_are_exact(store: LedgerStore) -> None:
    stream = Stream()
    for _ in range(3):
        stream.settle(stream.hold(), tokens=None, cost_nano=2**53 - 1)
    stream.settle(stream.hold(), tokens={"input": 1}, model="mixtral")
    store.append(stream.batch(Position()))
    [row] = store.spend(SpendAsk(ALL_TIME))
    assert row.cost_usd == Decimal(3 * (2**53 - 1) + 500).scaleb(-9)
