"""Commands on the ledger: single requests, what it has, who reads along, and how it compares with others' records."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer

from budget.archive import Archive
from budget.connect import connect
from budget.embedded import running_url
from budget.readers import Readers
from budget.redis_store import RedisBudgetStore
from core.clock import SystemClock, iso_utc
from core.errors import ConfigError, SpendgateError
from core.ids import RandomIds
from core.money import format_usd
from dashboard import views
from dashboard.explain import shown_explanation
from ledger.ports import Filter, Interval, LedgerReader
from ledger.reconcile import Report
from spendgate.ledger_access import ledger_of
from spendgate.open_ledger import open_ledger
from spendgate.restore import restore_copy
from spendgate.settings import Settings, read_settings
from spendgate.tables import console, table_of

ledger = typer.Typer(help="The ledger: what it has, who reads the events, and copies of it.", no_args_is_help=True)
T = TypeVar("T")
_HOUR_MS = 3_600_000


def run_on_ledger(work: Callable[[LedgerReader, Settings], Awaitable[T]]) -> T:
    """Do something with the ledger that the settings name; errors are said and end the program with 1."""

    async def run() -> T:
        settings = read_settings()
        async with ledger_of(settings) as reader:
            return await work(reader, settings)

    return _said(lambda: asyncio.run(run()))


def _said(work: Callable[[], T]) -> T:
    try:
        return work()
    except SpendgateError as error:
        typer.echo(f"spendgate: {error.message}", err=True)
        raise typer.Exit(1) from None


def explain(
    request_id: Annotated[str, typer.Argument(help="X-Request-Id of an answer.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What became of a request, and which accounts it touched."""
    explained = run_on_ledger(lambda reader, _: views.explained(reader, request_id))
    if as_json:
        typer.echo(orjson.dumps(shown_explanation(explained)))
        return
    for call in explained.calls:
        served = f"{call.model_requested} -> {call.model_served or 'nothing'}"
        typer.echo(f"{iso_utc(call.at_ms)}  {call.kind} ({call.outcome})  {served}  ${format_usd(call.cost_nano)}")
        if call.why:
            typer.echo(f"    {call.why}")
        if call.refusal:
            typer.echo(f"    refused: {call.refusal} by {call.account_id}, needed ${format_usd(call.saved_nano)}")
    for step in explained.steps:
        for then in step.accounts:
            typer.echo(f"    {step.kind:<8} {then.account_id}: {_told_then(then)}")


def _told_then(then: views.AccountThen) -> str:
    """An account at an event, in dollars: what it did, what was spent after it, and how the account stood before."""
    found = [] if then.amount_nano is None else [f"${format_usd(then.amount_nano)}"]
    if then.spent_nano is not None:
        found.append(f"spent then ${format_usd(then.spent_nano)}")
    if then.stood and then.amount_nano is None:
        amounts = (then.stood.spent_nano, then.stood.held_nano, then.stood.limit_nano, then.stood.hard_nano)
        spent, held, limit, hard = map(format_usd, amounts)
        found.append(f"spent then ${spent}, held ${held}, limit ${limit}, hard cap ${hard}")
    return ", ".join(found)


def reconcile(
    hours: Annotated[float, typer.Option(help="How far to look back.", min=0.1)] = 24.0,
    databricks: Annotated[
        str | None, typer.Option(help="A SQL warehouse's id: compare with system.serving.endpoint_usage.")
    ] = None,
    helicone: Annotated[Path | None, typer.Option(help="A file of Helicone's export, JSON lines.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Write adjustments; without it nothing is written.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compare the ledger with the live accounts and with a provider's own record; exit code 1 if something differs."""
    from spendgate.reconciling import reconcile_with  # its HTTP client is slow to load

    async def work(reader: LedgerReader, settings: Settings) -> tuple[Report, int]:
        url = settings.redis_url or running_url(settings.data_dir / "valkey")
        live = RedisBudgetStore(connect(url), namespace=settings.namespace)
        try:
            return await reconcile_with(
                reader, live, settings, last(hours), databricks=databricks, helicone=helicone, apply=apply
            )
        finally:
            await live.close()

    report, applied = run_on_ledger(work)
    if as_json:
        typer.echo(json.dumps(report.as_json() | {"applied": applied}))
    else:
        _tell(report, applied, apply)
    raise typer.Exit(0 if report.clean else 1)


def _tell(report: Report, applied: int, apply: bool) -> None:
    if report.behind:
        typer.echo(f"the ledger is {report.behind:,} events behind: what these posted shows as drift")
    for drift in report.accounts:
        ours, live = format_usd(drift.ledger_nano), format_usd(drift.live_nano)
        typer.echo(f"DRIFT {drift.account_id}: ledger ${ours}, live ${live}")
    if not report.accounts:
        typer.echo("accounts: the ledger and the live state agree")
    if report.models:
        table = table_of(["model"], ["calls here", "there", "captured", "tokens here", "there", "$ here", "$ there"])
        for name, m in sorted(report.models.items()):
            counts = [f"{m.here:,}", f"{m.there:,}", f"{m.capture:.2%}", f"{m.tokens_here:,}", f"{m.tokens_there:,}"]
            table.add_row(name, *counts, format_usd(m.cost_here_nano), format_usd(m.cost_there_nano))
        console().print(table)
    for attempt_id in report.unknown[:20]:
        typer.echo(f"UNKNOWN here: {attempt_id}")
    for item in report.adjustments:
        sign = "+" if item.delta_nano > 0 else ""
        done = "adjusted" if apply else "would adjust"
        typer.echo(f"{done} {item.call.hold_id}: {sign}{format_usd(item.delta_nano)} ({item.why})")
    if apply:
        typer.echo(f"{applied} adjustments written")


@ledger.command()
def facts(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """What the ledger has, and how far it is behind."""

    async def ask(reader: LedgerReader, _: Settings) -> dict[str, Any]:
        return await reader.facts()

    found = run_on_ledger(ask)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        typer.echo(f"{name:<10} {iso_utc(value) if name == 'newestMs' and value else value}")


@ledger.command()
def readers() -> None:
    """Who reads the events: what one has not read yet stays in the store."""

    async def ask(live: RedisBudgetStore) -> list[Any]:
        return await Readers(live).all()

    for reader in _on_live(ask):
        idle = "" if reader.idle_ms is None else f", last read {reader.idle_ms // 1000} s ago"
        typer.echo(f"{reader.name}  has everything up to {reader.safe_id}{idle}")


@ledger.command("forget-reader")
def forget_reader(name: Annotated[str, typer.Argument(help="As in `spendgate ledger readers`.")]) -> None:
    """Let the store go on without a reader that will not come back."""

    async def forget(live: RedisBudgetStore) -> bool:
        return await Readers(live).forget(name)

    if not _on_live(forget):
        typer.echo(f"spendgate: there is no reader {name}", err=True)
        raise typer.Exit(1)


@ledger.command("restore-copy")
def restore() -> None:
    """Make the copy of the live state's events anew from the ledger, while nothing runs."""

    def work() -> int:
        settings = read_settings()
        store = open_ledger(settings, RandomIds(SystemClock()))
        try:
            archive = Archive(settings.data_dir / "events" / settings.namespace)
        except BlockingIOError as error:
            raise ConfigError(str(error)) from None
        try:
            return restore_copy(store, archive)
        finally:
            archive.close()
            store.close()

    typer.echo(f"{_said(work)} events copied; the next start rebuilds the store from them")


def _on_live(work: Callable[[RedisBudgetStore], Awaitable[T]]) -> T:
    async def run() -> T:
        settings = read_settings()
        url = settings.redis_url or running_url(settings.data_dir / "valkey")
        live = RedisBudgetStore(connect(url), namespace=settings.namespace)
        try:
            return await work(live)
        finally:
            await live.close()

    return _said(lambda: asyncio.run(run()))


def last(hours: float) -> Interval:
    """So many hours, up to now."""
    now_ms = SystemClock().now_ms()
    return Interval(now_ms - round(hours * _HOUR_MS), now_ms + 1)


def filters_of(scopes: list[str] | None) -> tuple[Filter, ...]:
    """Options such as ``team:ml`` as filters."""
    found = []
    for text in scopes or ():
        name, separator, key = text.partition(":")
        if not separator:
            raise typer.BadParameter("must look like team:ml", param_hint="--scope")
        found.append(Filter(name, (key,)))
    return tuple(found)
