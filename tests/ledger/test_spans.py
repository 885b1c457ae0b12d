"""Which sums are read: every instant of an interval once, in its bucket, from the coarsest sums that fit."""

import itertools
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.ports import Bucket, Interval, SpendAsk
from ledger.spans import DAY_MS, RECORDS, SLOT_MS, SPANS_MS, reaches, stretches, within
from tests.ledger import oracle
from tests.ledger.events import HOUR_MS, START_MS

#: Offsets of whole hours, halves and quarters; clocks that change by an hour, by half an hour, at midnight, or never.
ZONES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe"),
    *("Pacific/Chatham", "America/St_Johns", "Africa/Cairo", "America/Havana", "Asia/Tokyo"),
)
BUCKETS: tuple[Bucket | None, ...] = (None, "hour", "day", "week", "month")
#: From 2023 to 2028.
TIMES_MS = st.integers(1_672_531_200_000, 1_830_297_600_000)


@given(TIMES_MS, st.integers(0, 60 * DAY_MS), st.sampled_from(BUCKETS), st.sampled_from(ZONES), st.booleans())
def test_the_parts_are_the_interval(start_ms: int, length_ms: int, bucket: Bucket, zone: str, summed: bool) -> None:
    parts = stretches(Interval(start_ms, start_ms + length_ms), bucket, zone, summed=summed)
    at_ms = start_ms
    for part in parts:
        assert part.start_ms == at_ms < part.end_ms
        assert part.span_ms in ((*SPANS_MS, RECORDS) if summed else (RECORDS,))
        if part.span_ms != RECORDS:
            assert part.start_ms % part.span_ms == part.end_ms % part.span_ms == 0
        at_ms = part.end_ms
    assert at_ms == start_ms + length_ms


@given(TIMES_MS, st.integers(1, 40 * DAY_MS), st.sampled_from(BUCKETS[1:]), st.sampled_from(ZONES), st.data())
def test_a_part_is_of_one_bucket(start_ms: int, length_ms: int, bucket: Bucket, zone: str, data: st.DataObject) -> None:
    ask = SpendAsk(Interval(start_ms, start_ms + length_ms), (), bucket, zone)
    part = data.draw(st.sampled_from(stretches(ask.interval, bucket, zone, summed=True)))
    for at_ms in (part.start_ms, part.end_ms - 1, data.draw(st.integers(part.start_ms, part.end_ms - 1))):
        assert oracle.bucket_ms(at_ms, ask) == part.bucket_ms


@given(TIMES_MS, st.integers(1, 400 * DAY_MS), st.sampled_from(BUCKETS), st.sampled_from(ZONES))
def test_what_is_read_in_one_go_has_all_parts(start_ms: int, length_ms: int, bucket: Bucket, zone: str) -> None:
    parts = stretches(Interval(start_ms, start_ms + length_ms), bucket, zone, summed=True)
    for span_ms in (*SPANS_MS, RECORDS):
        found = reaches(parts, span_ms)
        assert len(found) <= 66
        assert all(a.end_ms <= b.start_ms for a, b in itertools.pairwise(found))
        for part in parts:
            if part.span_ms == span_ms:
                assert sum(r.start_ms <= part.start_ms and part.end_ms <= r.end_ms for r in found) == 1


def of_spans(interval: Interval, bucket: Bucket | None, zone: str) -> dict[int, int]:
    """How many sums of each span are read; milliseconds of records."""
    found: dict[int, int] = {}
    for part in stretches(interval, bucket, zone, summed=True):
        found[part.span_ms] = found.get(part.span_ms, 0) + (part.end_ms - part.start_ms) // (part.span_ms or 1)
    return found


MIDNIGHT_MS = START_MS - 10 * HOUR_MS


@pytest.mark.parametrize(
    ("zone", "bucket", "expected"),
    [
        ("UTC", None, {DAY_MS: 28}),
        ("UTC", "day", {DAY_MS: 28}),
        ("UTC", "week", {DAY_MS: 28}),
        ("UTC", "hour", {HOUR_MS: 28 * 24}),
        ("Europe/Berlin", None, {DAY_MS: 28}),
        ("Europe/Berlin", "day", {4 * HOUR_MS: 28 * 5, HOUR_MS: 28 * 4}),
        ("Europe/Berlin", "week", {DAY_MS: 24, 4 * HOUR_MS: 4 * 5, HOUR_MS: 4 * 4}),
        ("Asia/Kathmandu", "week", {DAY_MS: 24, 4 * HOUR_MS: 4 * 5, HOUR_MS: 4 * 3, SLOT_MS: 4 * 4}),
        ("Asia/Kathmandu", "hour", {SLOT_MS: 28 * 96}),
    ],
)
def test_the_coarsest_sums_that_fit_are_read(zone: str, bucket: Bucket | None, expected: dict[int, int]) -> None:
    assert of_spans(Interval(MIDNIGHT_MS, MIDNIGHT_MS + 28 * DAY_MS), bucket, zone) == expected


def test_the_ends_of_an_interval_are_read_from_finer_sums_and_records() -> None:
    interval = Interval(MIDNIGHT_MS - HOUR_MS - 1, MIDNIGHT_MS + 3 * DAY_MS + 5 * HOUR_MS + SLOT_MS + 7)
    assert of_spans(interval, None, "UTC") == {RECORDS: 8, HOUR_MS: 2, DAY_MS: 3, 4 * HOUR_MS: 1, SLOT_MS: 1}


def test_an_interval_of_all_time_is_of_what_there_is() -> None:
    known = Interval(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    assert within(SpendAsk(Interval(0, 2**62)), known).interval == known
    assert within(SpendAsk(Interval(START_MS, 2**62)), known).interval == Interval(START_MS, known.end_ms)
    before = within(SpendAsk(Interval(5, 9)), known).interval
    assert stretches(before, "day", "UTC", summed=True) == []


def test_a_time_from_before_clocks_went_by_quarters_ends() -> None:
    """Liberia was 44 minutes and a half behind until 1972: no such minute is summed rightly, but the work ends."""
    at_ms = round(datetime(1970, 1, 1, tzinfo=UTC).timestamp() * 1000)
    parts = stretches(Interval(at_ms, at_ms + 3 * DAY_MS), "day", "Africa/Monrovia", summed=True)
    assert sum(p.end_ms - p.start_ms for p in parts) == 3 * DAY_MS
