"""Time ranges and filters as a page's URL has them."""

from collections.abc import Mapping
from urllib.parse import urlencode

from core.errors import InvalidInput
from core.period import parse_zone
from core.values import value
from ledger.ports import Bucket, Interval

_HOUR_MS = 3_600_000
#: By its name in the URL: how long, in what steps, and what a person reads.
RANGES: dict[str, tuple[int, Bucket, str]] = {
    "24h": (24 * _HOUR_MS, "hour", "24 hours"),
    "7d": (7 * 24 * _HOUR_MS, "day", "7 days"),
    "30d": (30 * 24 * _HOUR_MS, "day", "30 days"),
    "90d": (90 * 24 * _HOUR_MS, "week", "90 days"),
}


@value
class Range:
    """A stretch of time up to now. zone: whose days are shown."""

    name: str
    interval: Interval
    bucket: Bucket
    label: str
    zone: str

    def query(self, **changed: str) -> str:
        """The same view, with something changed, as a query string."""
        return urlencode({"range": self.name, "zone": self.zone} | changed)


def range_of(query: Mapping[str, str], now_ms: int) -> Range:
    """What a URL asks for; the last day in UTC, if it says nothing.

    Raises:
        InvalidInput: there is no such range or zone.
    """
    name, zone = query.get("range", "24h"), query.get("zone", "UTC")
    if name not in RANGES:
        raise InvalidInput("range", f"must be one of {', '.join(RANGES)}")
    length_ms, bucket, label = RANGES[name]
    return Range(name, Interval(now_ms - length_ms, now_ms + 1), bucket, label, parse_zone("zone", zone))
