"""Answers from sums of hours and days are those of the records themselves, to the last digit."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from ledger.model import Batch, Position
from ledger.ports import Bucket, Filter, Interval, LedgerStore, SpendAsk
from ledger.spans import DAY_MS, RECORDS, SPANS_MS, stretches
from tests.contracts.ledger.conftest import place_of
from tests.ledger import oracle
from tests.ledger.engines import ENGINES
from tests.ledger.events import HOUR_MS, START_MS, Stream

Ledger = tuple[LedgerStore, oracle.Oracle]
SLOT_MS = 900_000
#: Saturday, 2026-10-24 22:00 UTC: in the second night after it, clocks in Europe are set back.
FIRST_MS = 1_792_879_200_000 - DAY_MS
ZONES = ("UTC", "Europe/Berlin", "Asia/Kolkata", "Asia/Kathmandu", "America/St_Johns", "Australia/Lord_Howe")
INTERVALS = (
    Interval(0, 2**52),
    Interval(FIRST_MS + 26 * HOUR_MS, FIRST_MS + 12 * DAY_MS + 26 * HOUR_MS),  # whole days in UTC
    Interval(FIRST_MS + 1_234, FIRST_MS + 11 * DAY_MS + 7 * HOUR_MS + 123_457),
    Interval(FIRST_MS + 2 * DAY_MS + 899_999, FIRST_MS + 3 * DAY_MS + 900_001),
)


def _weeks() -> Stream:
    """Calls every 53 minutes or so for sixteen days, with late ends, refusals and what a webhook adds."""
    stream = Stream(now_ms=FIRST_MS)
    for n in range(430):
        call = stream.hold(f"agent{n % 3}", ("ml", "ops", None)[n % 7 % 3], session=f"s{n}", model="dbrx")
        if n % 11 == 0:
            stream.expire(call)
        if n % 22 != 11:
            stream.settle(call, model=("dbrx", "mixtral")[n % 2], tokens={"input": n + 1, "output": 7 * n % 13})
        if n % 13 == 0:
            stream.refuse()
            stream.post(f"wh-{n}")
        stream.now_ms += 53 * 60_000 + 977 * n % 60_000
    return stream


@pytest.fixture(scope="module", params=list(ENGINES))
def weeks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger of sixteen days, some of whose batches were merged."""
    with place_of(request.param, request, tmp_path_factory.mktemp("weeks")) as place:
        store, stream, batches = ENGINES[request.param](place), _weeks(), list[Batch]()
        while store.position().sequence < len(stream.events):
            batches.append(stream.batch(store.position(), 300))
            store.append(batches[-1])
            if len(batches) == 2:
                store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
        yield store, oracle.Oracle(batches)
        store.close()


@pytest.mark.parametrize(
    ("bucket", "zone"),
    [(None, "UTC"), *((bucket, zone) for bucket in ("hour", "day", "week", "month") for zone in ZONES)],
)
def test_sums_are_those_of_the_records(weeks: Ledger, bucket: Bucket | None, zone: str) -> None:
    store, expected = weeks
    for interval in INTERVALS:
        ask = SpendAsk(interval, ("agent", "model"), bucket, zone)
        assert sorted(store.spend(ask), key=oracle.by_group) == expected.spend(ask)
        assert sorted(store.calls(ask), key=oracle.by_group) == expected.calls(ask)
        ask = SpendAsk(interval, (), bucket, zone, (Filter("team", ("ml", None)),))
        assert sorted(store.spend(ask), key=oracle.by_group) == expected.spend(ask)


@pytest.mark.parametrize("bucket", [None, "day", "month"])
def test_what_is_asked_by_session_is_the_same_in_whole(weeks: Ledger, bucket: Bucket | None) -> None:
    """By session there are no sums: the engine adds up records."""
    store, _ = weeks
    for interval in INTERVALS:
        of_sums = store.spend(SpendAsk(interval, ("agent",), bucket, "Asia/Kathmandu"))
        of_records = store.spend(SpendAsk(interval, ("agent", "session"), bucket, "Asia/Kathmandu"))
        added: dict[object, Decimal] = {}
        for row in of_records:
            key = (row.group[0], row.bucket_ms)
            added[key] = added.get(key, Decimal(0)) + row.cost_usd
        assert {(row.group[0], row.bucket_ms): row.cost_usd for row in of_sums} == added


def test_these_questions_are_answered_from_sums_of_every_length() -> None:
    """Or else the tests above compare nothing."""
    read = {
        part.span_ms
        for interval in INTERVALS[1:]
        for part in stretches(interval, "week", "Asia/Kathmandu", summed=True)
    }
    assert read == {*SPANS_MS, RECORDS}


def test_what_comes_late_is_in_the_sums_of_its_own_day(store: LedgerStore) -> None:
    """A correction is dated when its call was, long after these sums were merged."""
    stream = Stream(now_ms=START_MS)
    early = stream.hold()
    stream.settle(early, lasted_ms=0)
    batches = [stream.batch(Position())]
    store.append(batches[0])
    store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
    stream.now_ms += 3 * DAY_MS
    stream.settle(stream.hold())
    stream.now_ms = START_MS + HOUR_MS  # a clock that went back
    stream.settle(stream.hold("late"), lasted_ms=0)
    batches.append(stream.batch(store.position()))
    store.append(batches[1])
    for bucket in (None, "hour", "day"):
        ask = SpendAsk(Interval(0, 2**42), ("agent",), bucket, "UTC")
        for _ in range(2):
            assert sorted(store.spend(ask), key=oracle.by_group) == oracle.spend(batches, ask)
            store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
