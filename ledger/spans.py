"""Which sums an answer is read from: the coarsest that fit between the bounds of its interval and of its buckets. Pure.

Sums are kept by day, four hours and hour in UTC and by quarters of an hour, which the days of any time zone consist of.
A day of Berlin is five times four hours and four hours more, one of Kathmandu needs some quarters besides, a week of
either has whole days between such edges. What an interval has of a quarter at its ends comes from the records.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from core.errors import InvalidInput
from core.values import value
from ledger.ports import Bucket, Interval, SpendAsk

SLOT_MS = 900_000
_HOUR_MS = 3_600_000
DAY_MS = 86_400_000
#: Lengths of what sums are kept of, the longest first.
SPANS_MS = (DAY_MS, 4 * _HOUR_MS, _HOUR_MS, SLOT_MS)
#: The "span" of records, of which there are no sums.
RECORDS = 0
#: What is read of one span is read in so many goes at most, each from its first to its last instant.
_REACHES = 64


@value
class Stretch:
    """What is to be read from sums of a span (or from records) for a bucket (0: there are no buckets)."""

    span_ms: int
    start_ms: int
    end_ms: int
    bucket_ms: int


def within(ask: SpendAsk, known: Interval) -> SpendAsk:
    """The same question, of what there is: an interval may be of all time."""
    start_ms, end_ms = max(ask.interval.start_ms, known.start_ms), min(ask.interval.end_ms, known.end_ms)
    return replace(ask, interval=Interval(start_ms, max(start_ms, end_ms)))


def stretches(interval: Interval, bucket: Bucket | None, zone: str, *, summed: bool) -> list[Stretch]:
    """The parts of an interval, in order of time. summed: not from records alone.

    Raises:
        InvalidInput: there is no such zone.
    """
    spans = SPANS_MS if summed else ()
    return [
        stretch
        for start_ms, end_ms, bucket_ms in _buckets(interval, bucket, zone)
        for stretch in _split(start_ms, end_ms, bucket_ms, spans)
    ]


def reaches(of: Iterable[Stretch], span_ms: int) -> list[Interval]:
    """What is to be read of a span, from where to where, without what lies far between."""
    parts = [s for s in of if s.span_ms == span_ms]
    if not parts:
        return []
    far_ms = max(8 * (span_ms or SLOT_MS), (parts[-1].end_ms - parts[0].start_ms) // _REACHES)
    found = [Interval(parts[0].start_ms, parts[0].end_ms)]
    for part in parts[1:]:
        if part.start_ms - found[-1].end_ms > far_ms:
            found.append(Interval(part.start_ms, part.end_ms))
        else:
            found[-1] = Interval(found[-1].start_ms, part.end_ms)
    return found


def _split(start_ms: int, end_ms: int, bucket_ms: int, spans: Sequence[int]) -> Iterator[Stretch]:
    if start_ms >= end_ms:
        return
    if not spans:
        yield Stretch(RECORDS, start_ms, end_ms, bucket_ms)
        return
    span_ms, *finer = spans
    first_ms, last_ms = -(-start_ms // span_ms) * span_ms, end_ms // span_ms * span_ms
    if first_ms >= last_ms:
        yield from _split(start_ms, end_ms, bucket_ms, finer)
        return
    yield from _split(start_ms, first_ms, bucket_ms, finer)
    yield Stretch(span_ms, first_ms, last_ms, bucket_ms)
    yield from _split(last_ms, end_ms, bucket_ms, finer)


def _buckets(interval: Interval, bucket: Bucket | None, zone: str) -> Iterator[tuple[int, int, int]]:
    """Buckets and what of the interval is in them: from, to (exclusive) and the bucket's own start."""
    at_ms = interval.start_ms
    if bucket is None and at_ms < interval.end_ms:
        yield at_ms, interval.end_ms, 0
        return
    place = _place(zone)
    while at_ms < interval.end_ms:
        if bucket == "hour":
            bucket_ms, after_ms = _hour(at_ms, place)
        else:
            bucket_ms, after_ms = _days(at_ms, bucket or "day", place)
        # Before 1972 there were offsets of other minutes; nothing is that old, but nothing is to go round for ever.
        after_ms = min(max(after_ms, _next_slot(at_ms)), interval.end_ms)
        yield at_ms, after_ms, bucket_ms
        at_ms = after_ms


def _place(zone: str) -> ZoneInfo:
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError):  # not known, no name at all, a folder of names
        raise InvalidInput("zone", f"must be a time zone such as Europe/Berlin, not {zone!r}") from None


def _hour(at_ms: int, zone: ZoneInfo) -> tuple[int, int]:
    """An hour that a clock shows twice is two."""
    into_ms = (at_ms + _offset_ms(at_ms, zone)) % _HOUR_MS
    after_ms = at_ms - into_ms + _HOUR_MS
    if _offset_ms(after_ms - 1, zone) != _offset_ms(at_ms, zone):  # clocks changed within it
        after_ms = _next_slot(at_ms)
    return at_ms - into_ms, after_ms


def _next_slot(at_ms: int) -> int:
    return (at_ms // SLOT_MS + 1) * SLOT_MS


def _offset_ms(at_ms: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(zone).utcoffset()
    return round(offset.total_seconds()) * 1000 if offset else 0


def _days(at_ms: int, bucket: Bucket, zone: ZoneInfo) -> tuple[int, int]:
    day = datetime.fromtimestamp(at_ms // 1000, UTC).astimezone(zone).date()
    if bucket == "week":
        day -= timedelta(days=day.weekday())
        after = day + timedelta(days=7)
    elif bucket == "month":
        day = day.replace(day=1)
        after = (day + timedelta(days=31)).replace(day=1)
    else:
        after = day + timedelta(days=1)
    return _midnight_ms(day, zone), _midnight_ms(after, zone)


def _midnight_ms(day: date, zone: ZoneInfo) -> int:
    return round(datetime.combine(day, time(), zone).timestamp()) * 1000 // SLOT_MS * SLOT_MS
