"""Ranges and filters of a URL."""

from datetime import datetime
from itertools import pairwise
from urllib.parse import parse_qsl

import pytest

from core.errors import InvalidInput
from dashboard.ranges import range_of
from ledger.ports import Filter
from tests.dashboard.conftest import NOON_MS

HOUR_MS = 3_600_000


def at_ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


def test_a_view_comes_back_from_its_own_query() -> None:
    given = {"range": "7d", "zone": "Europe/Berlin", "by": "team", "model": "dbrx", "scope": "team:ml"}
    shown = range_of(given | {"provider": "", "outcome": " "}, NOON_MS)
    assert dict(parse_qsl(shown.query())) == given
    assert range_of(dict(parse_qsl(shown.query())), NOON_MS) == shown
    assert dict(parse_qsl(shown.query(model="", range="24h"))) == {k: v for k, v in given.items() if k != "model"} | {
        "range": "24h"
    }


def test_filters_become_asks() -> None:
    shown = range_of({"model": "m", "source": "webhook", "scope": "user:ann"}, NOON_MS)
    assert shown.wanted() == (Filter("model", ("m",)), Filter("source", ("webhook",)), Filter("user", ("ann",)))
    assert shown.costs_only and shown.outcome is None
    assert range_of({"outcome": "refused"}, NOON_MS).outcome == Filter("kind", ("refusal",))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"range": "1y"}, "range"),
        ({"zone": "Mars/Olympus"}, "zone"),
        ({"by": "colour"}, "by"),
        ({"outcome": "lost"}, "outcome"),
        ({"outcome": "refused", "source": "webhook"}, "outcome"),
        ({"scope": "nothing"}, "scope"),
    ],
)
def test_what_is_not_understood_is_named(given: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        range_of(given, NOON_MS)
    assert caught.value.field == field


def test_steps_are_those_of_the_zone_on_the_day_that_summer_ends() -> None:
    now_ms = at_ms("2026-10-26T12:00:00+01:00")
    days = range_of({"range": "7d", "zone": "Europe/Berlin"}, now_ms).buckets()
    assert days[0] == at_ms("2026-10-19T00:00:00+02:00") and days[-1] == at_ms("2026-10-26T00:00:00+01:00")
    assert [(b - a) // HOUR_MS for a, b in pairwise(days)] == [24] * 6 + [25]
    weeks = range_of({"range": "90d", "zone": "Europe/Berlin"}, now_ms).buckets()
    assert weeks[-1] == at_ms("2026-10-26T00:00:00+01:00") and weeks[-2] == at_ms("2026-10-19T00:00:00+02:00")
    hours = range_of({"zone": "Asia/Kolkata"}, now_ms).buckets()
    assert len(hours) == 25 and hours[-1] == at_ms("2026-10-26T16:00:00+05:30")


def test_today_begins_at_midnight_in_the_zone() -> None:
    assert range_of({"zone": "Asia/Tokyo"}, NOON_MS).since_midnight().start_ms == at_ms("2026-11-23T00:00:00+09:00")
