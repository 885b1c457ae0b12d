"""Commands about what was spent, from the ledger: on whom and what, by which calls, and why it changed."""

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from core.clock import iso_utc
from core.errors import SpendgateError
from core.money import format_usd
from core.period import parse_zone
from ledger.ports import Bucket, CallsRow, Interval, LedgerReader, SpendAsk
from ledger.queries import Change, price_and_volume, top
from spendgate.cli_ledger import filters_of, last, run_on_ledger
from spendgate.settings import Settings
from spendgate.tables import console, table_of

_PLACES = 6
_TOP = 20

Hours = Annotated[float, typer.Option(help="How far to look back.", min=0.1)]
BucketName = Annotated[str | None, typer.Option("--bucket", help="hour, day, week or month: rows for each.")]
Zone = Annotated[str, typer.Option(help="Whose days and months.")]
Only = Annotated[list[str] | None, typer.Option("--scope", help="Only this, such as team:ml or model:dbrx; repeat.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


def spend(
    by: Annotated[
        list[str] | None, typer.Option(help="agent, team, user, model, provider, meter, …; repeat for more.")
    ] = None,
    hours: Hours = 24.0,
    bucket: BucketName = None,
    zone: Zone = "UTC",
    scope: Only = None,
    most: Annotated[
        int | None,
        typer.Option("--top", help=f"Groups at most, the rest is summed as other; {_TOP}, or all with --json.", min=1),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What was spent, by whom or on what, from the ledger."""
    groups, interval = tuple(by or ["agent"]), last(hours)

    async def ask(reader: LedgerReader, _: Settings) -> list[Any]:
        return await reader.spend(SpendAsk(interval, groups, _bucket(bucket), _zone(zone), filters_of(scope)))

    found = run_on_ledger(ask)
    rows = top(found, most or (len(found) if as_json else _TOP))
    if as_json:
        told = [
            _named(groups, row.group, row.bucket_ms) | {"costUsd": str(row.cost_usd), "quantity": str(row.quantity)}
            for row in rows
        ]
        typer.echo(json.dumps(told))
        return
    table = table_of([*([f"from, {zone}"] if bucket else []), *groups], ["US dollars", "tokens"])
    for row in rows:
        table.add_row(*_heads(row.group, row.bucket_ms, zone, bucket), _usd(row.cost_usd), f"{int(row.quantity):,}")
    console().print(table)
    typer.echo(f"{iso_utc(interval.start_ms)} to {iso_utc(interval.end_ms)}")


def calls(
    by: Annotated[
        list[str] | None,
        typer.Option(help="outcome, refusal, downgraded, state, model, model_requested, agent, team, …; repeat."),
    ] = None,
    hours: Hours = 24.0,
    bucket: BucketName = None,
    zone: Zone = "UTC",
    scope: Only = None,
    as_json: AsJson = False,
) -> None:
    """How many calls were answered, downgraded, refused or failed, what they cost and what was not spent."""
    groups, interval = tuple(by or ["outcome"]), last(hours)

    async def ask(reader: LedgerReader, _: Settings) -> list[CallsRow]:
        return await reader.calls(SpendAsk(interval, groups, _bucket(bucket), _zone(zone), filters_of(scope)))

    rows = sorted(run_on_ledger(ask), key=lambda row: (row.bucket_ms or 0, -row.cost_nano, -row.calls, str(row.group)))
    if as_json:
        typer.echo(json.dumps([_named(groups, row.group, row.bucket_ms) | _counts(row) for row in rows]))
        return
    numbers = ["calls", "downgraded", "saved $", "refused", "not spent $", "failed", "cost $"]
    table = table_of([*([f"from, {zone}"] if bucket else []), *groups], numbers)
    for row in rows:
        saved, avoided, cost = map(format_usd, (row.saved_nano, row.avoided_nano, row.cost_nano))
        counts = (f"{row.calls:,}", f"{row.downgraded:,}", saved, f"{row.refused:,}", avoided, f"{row.failed:,}", cost)
        table.add_row(*_heads(row.group, row.bucket_ms, zone, bucket), *counts)
    console().print(table)
    typer.echo(
        f"{iso_utc(interval.start_ms)} to {iso_utc(interval.end_ms)}; not spent: the least that refused calls needed"
    )


def compare(
    by: Annotated[
        list[str] | None, typer.Option(help="As of spend; model and meter, if not given: these have one unit.")
    ] = None,
    hours: Annotated[float, typer.Option(help="These last hours, with as many before.", min=0.1)] = 24.0,
    scope: Only = None,
    as_json: AsJson = False,
) -> None:
    """Why spend changed: the last hours with as many before, taken apart into price and volume."""
    groups, now = tuple(by or ["model", "meter"]), last(hours)
    before = Interval(2 * now.start_ms - now.end_ms, now.start_ms)

    async def ask(reader: LedgerReader, _: Settings) -> list[Change]:
        filters = filters_of(scope)
        then, since = [await reader.spend(SpendAsk(i, groups, filters=filters)) for i in (before, now)]
        return price_and_volume(then, since)

    changes = run_on_ledger(ask)
    if as_json:
        typer.echo(json.dumps([_named(groups, c.group, None) | _parts(c) for c in changes]))
        return
    table = table_of([*groups], ["before $", "after $", "change $", "by price", "by volume", "new or gone"])
    for c in changes:
        amounts = (c.before_usd, c.after_usd, c.delta_usd, c.price_usd, c.volume_usd, c.new_usd)
        table.add_row(*_heads(c.group), *map(_usd, amounts))
    console().print(table)
    typer.echo(f"before: from {iso_utc(before.start_ms)}; after: {iso_utc(now.start_ms)} to {iso_utc(now.end_ms)}")


def _named(groups: Sequence[str], group: Sequence[str | None], bucket_ms: int | None) -> dict[str, Any]:
    return {**dict(zip(groups, group, strict=True)), "from": None if bucket_ms is None else iso_utc(bucket_ms)}


def _heads(
    group: Sequence[str | None], at_ms: int | None = None, zone: str = "UTC", bucket: str | None = None
) -> list[str]:
    """When a bucket began, on the clocks of its zone, ``2026-11-23`` or ``2026-11-23 14:00``, and the keys."""
    began = []
    if at_ms is not None:
        at = datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone))
        began = [at.strftime("%Y-%m-%d %H:%M" if bucket == "hour" else "%Y-%m-%d")]
    return began + ["–" if key is None else key for key in group]


def _counts(row: CallsRow) -> dict[str, Any]:
    amounts = {"costUsd": row.cost_nano, "savedUsd": row.saved_nano, "notSpentUsd": row.avoided_nano}
    counts = {"calls": row.calls, "downgraded": row.downgraded, "refused": row.refused, "failed": row.failed}
    return counts | {name: format_usd(nano) for name, nano in amounts.items()}


def _parts(c: Change) -> dict[str, str]:
    amounts = {"beforeUsd": c.before_usd, "afterUsd": c.after_usd, "changeUsd": c.delta_usd}
    amounts |= {"priceUsd": c.price_usd, "volumeUsd": c.volume_usd, "newUsd": c.new_usd}
    return {name: f"{usd:f}" for name, usd in amounts.items()}


def _usd(amount: Decimal) -> str:
    return f"{amount:,.{_PLACES}f}"


def _bucket(name: str | None) -> Bucket | None:
    if name is None or name in ("hour", "day", "week", "month"):
        return name  # type: ignore[return-value]
    raise typer.BadParameter("must be hour, day, week or month", param_hint="--bucket")


def _zone(name: str) -> str:
    try:
        return parse_zone("--zone", name)
    except SpendgateError as error:
        raise typer.BadParameter(error.message, param_hint="--zone") from None
