"""Periods: without gap or overlap, in every zone, whatever its clocks do."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.period import Cadence, Period, parse_cadence, parse_zone, period_at

CALENDAR = [c.value for c in Cadence if c is not Cadence.TOTAL]
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",
    "Pacific/Apia",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Cairo",
    "America/Havana",
]


def ms(text: str, zone: str = "UTC") -> int:
    """Epoch milliseconds of a local time, as ISO text."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


instants_ms = st.integers(ms("2000-01-01"), ms("2040-01-01"))


@given(st.sampled_from(CALENDAR), st.sampled_from(ZONES), instants_ms)
def test_periods_follow_each_other_without_gap_or_overlap(cadence: str, zone: str, now_ms: int) -> None:
    period = period_at(cadence, zone, now_ms)
    assert period.end_ms is not None
    assert period.start_ms <= now_ms < period.end_ms
    assert period_at(cadence, zone, period.start_ms) == period
    assert period_at(cadence, zone, period.end_ms - 1) == period
    following, before = period_at(cadence, zone, period.end_ms), period_at(cadence, zone, period.start_ms - 1)
    assert following.start_ms == period.end_ms
    assert before.end_ms == period.start_ms
    assert len({before.id, period.id, following.id}) == 3


@given(st.sampled_from(ZONES), instants_ms)
def test_a_day_is_the_local_date(zone: str, now_ms: int) -> None:
    local = datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
    assert period_at("daily", zone, now_ms).id == local.date().isoformat()
    assert period_at("monthly", zone, now_ms).id == f"{local:%Y-%m}"
    assert period_at("yearly", zone, now_ms).id == str(local.year)


@given(st.sampled_from(["every:1s", "every:90m", "every:6h", "every:7d"]), st.integers(1, 2**41))
def test_intervals_follow_each_other_too(cadence: str, now_ms: int) -> None:
    period = period_at(cadence, "Europe/Berlin", now_ms)
    assert period.end_ms is not None
    assert period.start_ms <= now_ms < period.end_ms
    assert period_at(cadence, "UTC", period.end_ms).start_ms == period.end_ms
    assert period_at(cadence, "UTC", period.end_ms - 1) == period


def test_every_six_hours() -> None:
    period = period_at("every:6h", "UTC", ms("2026-11-23T07:30"))
    assert (period.start_ms, period.end_ms) == (ms("2026-11-23T06:00"), ms("2026-11-23T12:00"))
    assert period.id == f"t{ms('2026-11-23T06:00') // 1000}"


def test_the_total_has_no_end() -> None:
    assert period_at("total", "UTC", ms("2026-11-23")) == Period("total", 0, None)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("America/Sao_Paulo", "2018-11-04", 23),  # the clocks went from 00:00 to 01:00
        ("America/Sao_Paulo", "2018-02-17", 25),  # and from 24:00 back to 23:00
        ("Australia/Lord_Howe", "2026-10-04", 23.5),
        ("Pacific/Apia", "2011-12-29", 24),
        ("Pacific/Apia", "2011-12-31", 24),
    ],
)
def test_days_around_a_change_of_the_clocks(zone: str, day: str, hours: float) -> None:
    period = period_at("daily", zone, ms(f"{day}T12:00", zone))
    assert period.id == day
    assert period.end_ms is not None
    assert period.end_ms - period.start_ms == hours * 3_600_000


def test_the_day_that_samoa_left_out() -> None:
    before = period_at("daily", "Pacific/Apia", ms("2011-12-29T12:00", "Pacific/Apia"))
    after = period_at("daily", "Pacific/Apia", ms("2011-12-31T12:00", "Pacific/Apia"))
    assert before.end_ms == after.start_ms == ms("2011-12-30T10:00")


@pytest.mark.parametrize(
    ("cadence", "now", "period_id", "start", "end"),
    [
        ("daily", "2028-02-29T12:00", "2028-02-29", "2028-02-29", "2028-03-01"),
        ("monthly", "2028-02-29T12:00", "2028-02", "2028-02-01", "2028-03-01"),
        ("monthly", "2027-02-28T23:59:59", "2027-02", "2027-02-01", "2027-03-01"),
        ("quarterly", "2026-12-31T23:59:59", "2026-Q4", "2026-10-01", "2027-01-01"),
        ("yearly", "2026-12-31T23:59:59", "2026", "2026-01-01", "2027-01-01"),
        ("weekly", "2026-12-31T12:00", "2026-W53", "2026-12-28", "2027-01-04"),
        ("weekly", "2027-01-03T12:00", "2026-W53", "2026-12-28", "2027-01-04"),
        ("weekly", "2027-01-04T00:00", "2027-W01", "2027-01-04", "2027-01-11"),
        ("weekly", "2024-12-30T00:00", "2025-W01", "2024-12-30", "2025-01-06"),
    ],
)
def test_calendar_corners(cadence: str, now: str, period_id: str, start: str, end: str) -> None:
    assert period_at(cadence, "UTC", ms(now)) == Period(period_id, ms(start), ms(end))


def test_a_leap_year_is_as_long_as_its_days() -> None:
    start = datetime(2028, 1, 1, tzinfo=UTC)
    ids = {period_at("daily", "UTC", int((start + timedelta(days=d)).timestamp()) * 1000).id for d in range(366)}
    assert len(ids) == 366
    assert all(i.startswith("2028-") for i in ids)


@pytest.mark.parametrize("cadence", [*Cadence, "every:1s", "every:6h", "every:30d"])
def test_cadences(cadence: str) -> None:
    assert parse_cadence("cadence", str(cadence)) == cadence


@pytest.mark.parametrize(
    "cadence",
    ["", "hourly", "Daily", "every:0h", "every:6", "every:6w", "every:-1h", "every:6h ", None, 6, []],
)
def test_cadences_that_are_none(cadence: object) -> None:
    with pytest.raises(InvalidInput, match=r"^cadence "):
        parse_cadence("cadence", cadence)


@pytest.mark.parametrize("zone", ZONES)
def test_zones(zone: str) -> None:
    assert parse_zone("timeZone", zone) == zone


@pytest.mark.parametrize("zone", ["", "Mars/Base", "../etc/passwd", "/etc/passwd", "Europe", None, 1, "a\0b", "é"])
def test_zones_that_are_none(zone: object) -> None:
    with pytest.raises(InvalidInput, match=r"^timeZone "):
        parse_zone("timeZone", zone)
