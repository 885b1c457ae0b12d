"""Periods of a budget: calendar cadences in the budget's own time zone, DST-correct, and fixed intervals.

A period's id is part of an account's key, so nothing is ever reset: periods simply change.
"""

import re
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from core.errors import InvalidInput
from core.values import value

_INTERVAL = re.compile(r"every:(\d{1,9})([smhd])")
_LONGEST_INTERVAL_S = 3653 * 86400
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Cadence(StrEnum):
    """Calendar cadences; a fixed interval is written ``every:<n><s|m|h|d>``, such as ``every:6h``."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"
    QUARTERLY = "quarterly"
    YEARLY = "yearly"
    TOTAL = "total"


@value
class Period:
    """One period. `start_ms` inclusive and `end_ms` exclusive are epoch milliseconds; None: without end."""

    id: str
    start_ms: int
    end_ms: int | None


def parse_cadence(field: str, value: object) -> str:
    """A calendar cadence or ``every:<n><unit>``, checked.

    Raises:
        InvalidInput: names `field` and the rule.
    """
    if isinstance(value, str):
        if value in {c.value for c in Cadence}:
            return value
        match = _INTERVAL.fullmatch(value)
        if match and 1 <= int(match[1]) * _SECONDS[match[2]] <= _LONGEST_INTERVAL_S:
            return value
    names = ", ".join(c.value for c in Cadence)
    raise InvalidInput(field, f"must be one of {names} or a fixed interval of up to ten years, such as every:6h")


def parse_zone(field: str, value: object) -> str:
    """The name of an IANA time zone, checked.

    Raises:
        InvalidInput: names `field` and the rule.
    """
    try:
        if not isinstance(value, str) or not value:
            raise ValueError
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidInput(field, "must be an IANA time zone such as UTC or Europe/Berlin") from None
    return value


#: The last period of each cadence and zone that was asked for: a calendar is slow, and the next call is in it too.
_latest: dict[tuple[str, str], Period] = {}
_MOST_LATEST = 1024


def period_at(cadence: str, zone: str, now_ms: int) -> Period:
    """The period of `cadence` in time zone `zone` that holds the instant `now_ms` (epoch milliseconds)."""
    latest = _latest.get((cadence, zone))
    if latest is not None and latest.start_ms <= now_ms and (latest.end_ms is None or now_ms < latest.end_ms):
        return latest
    if len(_latest) >= _MOST_LATEST:
        _latest.clear()
    period = _latest[cadence, zone] = _period_at(cadence, zone, now_ms)
    return period


def _period_at(cadence: str, zone: str, now_ms: int) -> Period:
    if cadence == Cadence.TOTAL:
        return Period("total", 0, None)
    match = _INTERVAL.fullmatch(cadence)
    if match:
        length_ms = int(match[1]) * _SECONDS[match[2]] * 1000
        start_ms = now_ms - now_ms % length_ms
        return Period(f"t{start_ms // 1000}", start_ms, start_ms + length_ms)
    tz = ZoneInfo(zone)
    today = datetime.fromtimestamp(now_ms / 1000, tz).date()
    period_id, first, after = _calendar(Cadence(cadence), today)
    return Period(period_id, _midnight_ms(first, tz), _midnight_ms(after, tz))


def _calendar(cadence: Cadence, today: date) -> tuple[str, date, date]:
    if cadence is Cadence.DAILY:
        return today.isoformat(), today, today + timedelta(days=1)
    if cadence is Cadence.WEEKLY:
        year, week, weekday = today.isocalendar()
        monday = today - timedelta(days=weekday - 1)
        return f"{year}-W{week:02d}", monday, monday + timedelta(days=7)
    if cadence is Cadence.MONTHLY:
        return f"{today:%Y-%m}", today.replace(day=1), _add_months(today.replace(day=1), 1)
    if cadence is Cadence.QUARTERLY:
        quarter = (today.month - 1) // 3
        first = date(today.year, quarter * 3 + 1, 1)
        return f"{today.year}-Q{quarter + 1}", first, _add_months(first, 3)
    return f"{today.year}", date(today.year, 1, 1), date(today.year + 1, 1, 1)


def _add_months(first: date, months: int) -> date:
    index = first.month - 1 + months
    return date(first.year + index // 12, index % 12 + 1, 1)


def _midnight_ms(day: date, tz: ZoneInfo) -> int:
    """Epoch ms of the start of a local day.

    Where the clocks skip midnight, fold=0 maps the missing 00:00 by the offset before the gap, which is the
    instant of the jump, the first instant of the new day.
    """
    local = datetime(day.year, day.month, day.day, tzinfo=tz)
    return int(local.astimezone(UTC).timestamp()) * 1000
