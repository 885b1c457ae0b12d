"""Time ranges and filters as a page's URL has them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from core.errors import InvalidInput
from core.period import parse_zone
from core.scope import parse_scope_text
from core.values import value
from ledger.ports import Bucket, Filter, Interval

_HOUR_MS = 3_600_000
#: Keeps the time zone of the browser.
ZONE_COOKIE = "spendgate_zone"
_NO_COOKIES: Mapping[str, str] = MappingProxyType({})
#: By its name in the URL: how long, in what steps, and what a person reads.
RANGES: dict[str, tuple[int, Bucket, str]] = {
    "24h": (24 * _HOUR_MS, "hour", "24 hours"),
    "7d": (7 * 24 * _HOUR_MS, "day", "7 days"),
    "30d": (30 * 24 * _HOUR_MS, "day", "30 days"),
    "90d": (90 * 24 * _HOUR_MS, "week", "90 days"),
}
#: What spend can be shown by, and what a person reads.
GROUPS = {"agent": "Agent", "team": "Team", "user": "User", "model": "Model", "provider": "Provider"}
#: Filters that are a column of cost records and of calls, and those of cost records alone.
COLUMNS, COST_COLUMNS = ("model", "provider"), ("service", "source")
OUTCOMES = {
    "answered": Filter("outcome", ("answered",)),
    "downgraded": Filter("downgraded", ("true",)),
    "refused": Filter("kind", ("refusal",)),
}
FILTERS = (*COLUMNS, *COST_COLUMNS, "scope", "outcome")


@value
class Range:
    """A stretch of time up to now, and what of it is shown.

    zone: whose days are shown. by: what spend is grouped by; "": as the page likes. filters: name and text of those
    that are set, of `FILTERS`.
    """

    name: str
    interval: Interval
    bucket: Bucket
    label: str
    zone: str
    by: str
    filters: tuple[tuple[str, str], ...]

    def query(self, **changed: str) -> str:
        """The same view, with something changed, as a query string."""
        given = {"range": self.name, "zone": self.zone, "by": self.by} | dict(self.filters) | changed
        return urlencode({name: text for name, text in given.items() if text})

    def text(self, name: str) -> str:
        """What a filter is set to; "": it is not."""
        return dict(self.filters).get(name, "")

    @property
    def outcome(self) -> Filter | None:
        """The filter on what became of calls, which only rows about calls know."""
        return OUTCOMES.get(self.text("outcome"))

    @property
    def costs_only(self) -> bool:
        """Whether a filter is set that only cost records know."""
        return any(self.text(name) for name in COST_COLUMNS)

    def wanted(self) -> tuple[Filter, ...]:
        """The filters but for the outcome."""
        found = [Filter(name, (self.text(name),)) for name in (*COLUMNS, *COST_COLUMNS) if self.text(name)]
        if self.text("scope"):
            scope = parse_scope_text("scope", self.text("scope"))
            found.append(Filter(scope.type, (scope.key,)))
        return tuple(found)

    def since_midnight(self) -> Interval:
        """Today, in the zone."""
        end_ms = self.interval.end_ms
        day = datetime.fromtimestamp(end_ms / 1000, ZoneInfo(self.zone)).replace(hour=0, minute=0, second=0)
        return Interval(int(day.timestamp()) * 1000, end_ms)

    def last_hour(self) -> Interval:
        """The last sixty minutes."""
        return Interval(self.interval.end_ms - _HOUR_MS, self.interval.end_ms)

    def buckets(self) -> list[int]:
        """Where the steps begin, epoch milliseconds; the first may begin before the interval."""
        start_ms, end_ms = self.interval.start_ms, self.interval.end_ms
        zone = ZoneInfo(self.zone)
        first = datetime.fromtimestamp(start_ms / 1000, zone).replace(minute=0, second=0, microsecond=0)
        if self.bucket == "hour":
            first_ms = int(first.timestamp()) * 1000
            return list(range(first_ms, end_ms, _HOUR_MS))
        step = timedelta(days=7 if self.bucket == "week" else 1)
        day = first.replace(hour=0) - timedelta(days=first.weekday() if self.bucket == "week" else 0)
        found = []
        while (at_ms := int(day.astimezone(UTC).timestamp()) * 1000) < end_ms:  # days are not all of 24 hours
            found.append(at_ms)
            day += step
        return found


def zone_of(query: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    """Whose clocks a page shows: those that the URL names, or the viewer's own, as the browser said at the login.

    Raises:
        InvalidInput: the URL names no time zone.
    """
    if query.get("zone"):
        return parse_zone("zone", query["zone"])
    try:
        return parse_zone("zone", cookies.get(ZONE_COOKIE) or "UTC")
    except InvalidInput:  # not ours: no page is to fail for it
        return "UTC"


def range_of(query: Mapping[str, str], now_ms: int, cookies: Mapping[str, str] = _NO_COOKIES) -> Range:
    """What a URL asks for; the last day in the viewer's time zone, if it says nothing.

    Raises:
        InvalidInput: there is no such range, zone, group or filter.
    """
    name, by = query.get("range") or "24h", query.get("by", "")
    if name not in RANGES:
        raise InvalidInput("range", f"must be one of {', '.join(RANGES)}")
    if by and by not in GROUPS:
        raise InvalidInput("by", f"must be one of {', '.join(GROUPS)}")
    given = {f: query.get(f, "").strip() for f in FILTERS}
    if given["outcome"] and given["outcome"] not in OUTCOMES:
        raise InvalidInput("outcome", f"must be one of {', '.join(OUTCOMES)}")
    if given["outcome"] and any(given[f] for f in COST_COLUMNS):
        raise InvalidInput("outcome", "does not go with service or source: single calls are not kept by these")
    if given["scope"]:
        parse_scope_text("scope", given["scope"])
    length_ms, bucket, label = RANGES[name]
    interval = Interval(now_ms - length_ms, now_ms + 1)
    filters = tuple((f, text) for f, text in given.items() if text)
    return Range(name, interval, bucket, label, zone_of(query, cookies), by, filters)
