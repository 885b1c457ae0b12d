"""What the ledger tells of a stretch of time, asked all at once. No HTML, no HTTP.

Failure policy: a ledger that is off or away is told as such; the page shows the live accounts without it.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from core.money import NANO_PER_USD
from dashboard.deps import Deps
from dashboard.formats import local, nano_of
from dashboard.ranges import COLUMNS, COST_COLUMNS, Range
from dashboard.spend import AccountSpend
from ledger.errors import LedgerUnavailable
from ledger.model import CallRow
from ledger.ports import CallsAsk, CallsRow, Filter, Interval, LedgerReader, SpendAsk, SpendRow, StateChange
from ledger.queries import BurnPoint, Forecast, burn_down, forecast, top

_TOP = 7
_LAST = 25
_SLOT_MS = 900_000
_OFF = "The ledger is switched off; set SPENDGATE_LEDGER=embedded to keep history."


@dataclass(slots=True)
class History:
    """What the ledger tells of a stretch of time. missing: why it tells nothing.

    newest_ms: of the newest event in it; lag: events that are not in it yet; webhook_ms: of the newest webhook.
    total, calls: None where a filter is set that only cost records know. today_nano, hour_nano: spent since midnight
    and in the last sixty minutes. choices: what the filters can be set to.
    """

    missing: str | None = None
    newest_ms: int | None = None
    lag: int = 0
    webhook_ms: int | None = None
    total: CallsRow | None = None
    spent_nano: int = 0
    today_nano: int = 0
    hour_nano: int = 0
    by_group: list[SpendRow] = field(default_factory=list)
    over_time: list[SpendRow] = field(default_factory=list)
    calls: list[CallRow] | None = None
    changes: list[StateChange] = field(default_factory=list)
    choices: dict[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Burn:
    """How an account's period goes. points: spent so far."""

    account: AccountSpend
    points: list[BurnPoint]
    forecast: Forecast | None


async def history_of(ledger: LedgerReader | None, shown: Range, of: tuple[Filter, ...], by: str) -> History:
    """The history that a page shows. of: what the page is of, beside the filters."""
    if ledger is None:
        return History(_OFF)
    filters = (*of, *shown.wanted())
    try:
        facts, spent, today, hour, there_is, of_calls = await asyncio.gather(
            ledger.facts(),
            _spend(ledger, shown, shown.interval, filters, (by,)),
            _spend(ledger, shown, shown.since_midnight(), filters, ()),
            _spend(ledger, shown, shown.last_hour(), filters, ()),
            ledger.spend(SpendAsk(shown.interval, (*COLUMNS, *COST_COLUMNS), None, shown.zone, of)),
            _calls(ledger, shown, filters),
        )
    except LedgerUnavailable as error:
        return History(f"History can't be read now: {error.message}. Live numbers are not affected.")
    total, calls, webhook_ms = of_calls
    over_time = top(spent, _TOP)
    return History(
        newest_ms=facts.get("newestMs"),
        lag=facts.get("lag", 0),
        webhook_ms=webhook_ms,
        total=total,
        spent_nano=_sum_nano(spent),
        today_nano=_sum_nano(today),
        hour_nano=_sum_nano(hour),
        by_group=_by_group(over_time),
        over_time=over_time,
        calls=calls,
        choices=_choices(there_is, shown),
    )


async def burns_of(deps: Deps, rows: Sequence[AccountSpend], now_ms: int) -> dict[str, Burn]:
    """How the periods of these accounts go, by account, as far as they end."""
    ends = {r.terms.id: r for r in rows if r.terms.period.end_ms is not None and r.terms.limit_nano}
    if deps.ledger is None or not ends:
        return {}
    periods = [row.terms.period for row in ends.values()]
    widest = Interval(min(p.start_ms for p in periods) - _SLOT_MS, max(p.end_ms or now_ms for p in periods))
    try:
        points = await deps.ledger.postings(list(ends), widest)
    except LedgerUnavailable:
        return {}
    found = {}
    for account_id, row in ends.items():
        own = [point for point in points if point.account_id == account_id]
        period = Interval(row.terms.period.start_ms, row.terms.period.end_ms or now_ms)
        leads_to = forecast(own, period, now_ms, row.terms.limit_nano)
        found[account_id] = Burn(row, burn_down(own, _SLOT_MS), leads_to)
    return found


async def _spend(
    ledger: LedgerReader, shown: Range, interval: Interval, filters: tuple[Filter, ...], by: tuple[str, ...]
) -> list[SpendRow]:
    """From cost records; from rows about calls, if only they know what is asked for."""
    bucket = shown.bucket if by else None
    if shown.outcome is None:
        return await ledger.spend(SpendAsk(interval, by, bucket, shown.zone, filters))
    rows = await ledger.calls(SpendAsk(interval, by, bucket, shown.zone, (*filters, shown.outcome)))
    return [_as_spend(row) for row in rows]


def _as_spend(row: CallsRow) -> SpendRow:
    cost_usd = Decimal(row.cost_nano) / NANO_PER_USD
    return SpendRow(row.group, row.bucket_ms, cost_usd, cost_usd, Decimal(row.input_tokens + row.output_tokens))


async def _calls(
    ledger: LedgerReader, shown: Range, filters: tuple[Filter, ...]
) -> tuple[CallsRow | None, list[CallRow] | None, int | None]:
    """Sums of calls and the last of them, as far as they know the filters, and when the last webhook came."""
    webhooks = ledger.call_list(CallsAsk(shown.interval, (Filter("outcome", ("webhook",)),), 1))
    if shown.costs_only:
        newest = await webhooks
        return None, None, newest[0].at_ms if newest else None
    wanted = filters if shown.outcome is None else (*filters, shown.outcome)
    total, rows, newest = await asyncio.gather(
        ledger.calls(SpendAsk(shown.interval, (), None, shown.zone, wanted)),
        ledger.call_list(CallsAsk(shown.interval, wanted, _LAST)),
        webhooks,
    )
    return total[0] if total else None, rows, newest[0].at_ms if newest else None


def _sum_nano(rows: Iterable[SpendRow]) -> int:
    return nano_of(sum((row.cost_usd for row in rows), Decimal(0)))


def _choices(rows: Sequence[SpendRow], shown: Range) -> dict[str, list[str]]:
    """Of each filter that is a column what there is, and what it is set to."""
    found = {}
    for n, name in enumerate((*COLUMNS, *COST_COLUMNS)):
        texts = {row.group[n] for row in rows} | {shown.text(name)}
        found[name] = sorted(text for text in texts if text)
    return found


def _by_group(rows: Sequence[SpendRow]) -> list[SpendRow]:
    """Over all buckets."""
    sums: dict[tuple[str | None, ...], SpendRow] = {}
    for row in rows:
        was = sums.get(row.group)
        sums[row.group] = SpendRow(
            row.group,
            None,
            row.cost_usd + (was.cost_usd if was else 0),
            row.list_cost_usd + (was.list_cost_usd if was else 0),
            row.quantity + (was.quantity if was else 0),
        )
    return sorted(sums.values(), key=lambda row: (row.group == ("other",), -row.cost_usd))


def spend_chart(history: History, shown: Range) -> dict[str, Any]:
    """Stacked spend over time, in dollars for drawing alone: a label for each step, in the zone, and series of as many
    values, the dearest first and what is left last.
    """
    starts = sorted({*shown.buckets(), *(r.bucket_ms for r in history.over_time if r.bucket_ms is not None)})
    cells = {(row.group, row.bucket_ms): row.cost_usd for row in history.over_time}
    hours = shown.bucket == "hour"
    return {
        "labels": [local(at_ms, shown.zone, time=hours) for at_ms in starts],
        "series": [
            {"name": row.group[0] or "none", "usd": [float(cells.get((row.group, at), 0)) for at in starts]}
            for row in history.by_group
        ],
    }


def burn_chart(burn: Burn, now_ms: int) -> dict[str, Any]:
    """A period's spend so far, where it leads, and the limit, in dollars for drawing alone."""
    terms, found = burn.account.terms, burn.forecast
    chart: dict[str, Any] = {
        "start": terms.period.start_ms,
        "end": terms.period.end_ms,
        "now": now_ms,
        "zone": terms.budget.zone,
        "limit": terms.limit_nano / 1e9,
        "hard": terms.hard_nano / 1e9,
        "spent": [[terms.period.start_ms, 0]] + [[min(p.at_ms, now_ms), p.spent_nano / 1e9] for p in burn.points],
    }
    if found:
        chart["forecast"] = {
            "expected": found.expected_nano / 1e9,
            "low": found.low_nano / 1e9,
            "high": found.high_nano / 1e9,
        }
    return chart
