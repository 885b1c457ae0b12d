"""What pages and reports make of the ledger's sums. Pure; every answer carries the numbers that it comes from."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from core.values import value
from ledger.ports import AccountPoint, Interval, SpendRow

#: The group that stands for all but the largest.
OTHER = "other"
_DAY_MS = 86_400_000
#: Of money in a cost record.
_DECIMALS = Decimal("1E-12")


def top(rows: Iterable[SpendRow], count: int) -> list[SpendRow]:
    """The `count` dearest groups over all buckets, and one group more for all others; by bucket, then by cost."""
    rows = list(rows)
    total: dict[tuple[str | None, ...], Decimal] = {}
    for row in rows:
        total[row.group] = total.get(row.group, Decimal(0)) + row.cost_usd
    kept = set(sorted(total, key=lambda group: (-total[group], str(group)))[:count])
    other: dict[int | None, SpendRow] = {}
    found = []
    for row in rows:
        if row.group in kept:
            found.append(row)
            continue
        before = other.get(row.bucket_ms)
        group = (OTHER,) * len(row.group)
        other[row.bucket_ms] = SpendRow(
            group,
            row.bucket_ms,
            row.cost_usd + (before.cost_usd if before else 0),
            row.list_cost_usd + (before.list_cost_usd if before else 0),
            row.quantity + (before.quantity if before else 0),
        )
    found += other.values()
    return sorted(found, key=lambda row: (row.bucket_ms or 0, row.group[:1] == (OTHER,), -row.cost_usd))


@value
class BurnPoint:
    """What had been spent of a budget's period by the end of a slot, in nano-dollars."""

    at_ms: int
    spent_nano: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """Where a period's spend leads.

    expected_nano: at the period's end; low and high: nine times in ten it is between them.
    over: the probability that it passes the limit. samples: days, or hours of the first days, that it is drawn from.
    """

    expected_nano: int
    low_nano: int
    high_nano: int
    over: float
    samples: int


def burn_down(points: Iterable[AccountPoint], slot_ms: int) -> list[BurnPoint]:
    """An account's spend, summed up over its slots of this length."""
    spent, found = 0, []
    for point in sorted(points, key=lambda p: p.slot_ms):
        spent += point.posted_nano
        found.append(BurnPoint(point.slot_ms + slot_ms, spent))
    return found


def forecast(points: Sequence[AccountPoint], period: Interval, now_ms: int, limit_nano: int) -> Forecast | None:
    """The spend at a period's end, if it goes on as it went: what is spent plus the mean rate of equal steps so far,
    with their spread taken for independent (normal). None: nothing has passed yet that it could be drawn from. What is
    above the limit already runs over it for certain.

    Steps are days, or hours in periods of less than three days.
    """
    step_ms = _DAY_MS if period.end_ms - period.start_ms >= 3 * _DAY_MS else 3_600_000
    steps = (now_ms - period.start_ms) // step_ms
    if steps < 1 or now_ms >= period.end_ms:
        return None
    by_step = [0] * int(steps)
    spent = 0
    for point in points:
        spent += point.posted_nano
        number = (point.slot_ms - period.start_ms) // step_ms
        if 0 <= number < steps:
            by_step[int(number)] += point.posted_nano
    elapsed = (now_ms - period.start_ms) / step_ms
    mean = spent / elapsed
    variance = sum((nano - mean) ** 2 for nano in by_step) / (steps - 1) if steps > 1 else mean**2
    left = (period.end_ms - now_ms) / step_ms
    # What is not known of the rate itself counts too: it is a mean of few steps.
    deviation = math.sqrt(variance * left * (1 + left / elapsed))
    expected = spent + mean * left
    return Forecast(
        expected_nano=round(expected),
        low_nano=max(spent, round(expected - 1.6449 * deviation)),
        high_nano=round(expected + 1.6449 * deviation),
        over=1.0 if spent > limit_nano else _above(limit_nano, expected, deviation),
        samples=int(steps),
    )


def _above(limit: float, expected: float, deviation: float) -> float:
    """The probability that a normal variable is above a limit."""
    if deviation <= 0:
        return 1.0 if expected > limit else 0.0
    return 0.5 * math.erfc((limit - expected) / (deviation * math.sqrt(2)))


@value
class Change:
    """Why a group's cost changed between two intervals; the three parts sum to `delta_usd`.

    price_usd: at the later quantity, the other price. volume_usd: at the earlier price, the other quantity.
    new_usd: what had no quantity before, or has none now, so that no price can be compared.
    """

    group: tuple[str | None, ...]
    before_usd: Decimal
    after_usd: Decimal
    price_usd: Decimal
    volume_usd: Decimal
    new_usd: Decimal

    @property
    def delta_usd(self) -> Decimal:
        """What it changed by."""
        return self.after_usd - self.before_usd


def price_and_volume(before: Iterable[SpendRow], after: Iterable[SpendRow]) -> list[Change]:
    """A change of spend by group, taken apart: price × volume. Groups should not mix units: use model and meter.
    The largest change first.
    """
    then, now = ({row.group: row for row in rows} for rows in (list(before), list(after)))
    changes = []
    for group in then.keys() | now.keys():
        old, new = then.get(group), now.get(group)
        cost_0, cost_1 = (row.cost_usd if row else Decimal(0) for row in (old, new))
        quantity_0, quantity_1 = (row.quantity if row else Decimal(0) for row in (old, new))
        delta = cost_1 - cost_0
        if quantity_0 > 0 and quantity_1 > 0:
            volume = ((quantity_1 - quantity_0) * cost_0 / quantity_0).quantize(_DECIMALS)
            changes.append(Change(group, cost_0, cost_1, delta - volume, volume, Decimal(0)))
        else:
            changes.append(Change(group, cost_0, cost_1, Decimal(0), Decimal(0), delta))
    return sorted(changes, key=lambda change: (-abs(change.delta_usd), str(change.group)))
