"""`spendgate simulate`: a call that is not made, and the past under another budget; as `POST /api/simulate`."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, TypeVar

import orjson
import typer
from rich.console import Console
from rich.table import Table

from budget.book import BudgetBook
from budget.codec import parse_spec
from budget.connect import connect
from budget.dry_run import DryRun
from budget.embedded import running_url
from budget.redis_store import RedisBudgetStore
from budget.service import BudgetService, Refused
from core.clock import SystemClock, iso_utc
from core.errors import SpendgateError
from core.ids import RandomIds
from core.keys import KeyRing
from core.money import NANO_PER_USD, format_usd
from core.period import period_at
from dashboard.deps import Deps
from dashboard.replay import ASSUMPTIONS, replay
from dashboard.simulate import (
    CallSpec,
    ReplaySpec,
    assumptions,
    before,
    dry_run,
    replay_ask,
    replayed,
    shown,
    shown_replay,
)
from dashboard.what_if import Replay, ReplayAsk, Tally
from gateway.chat import ChatFlow
from gateway.dry_run import DryRuns
from gateway.planner import Planner
from routing.adapters.registry import Upstreams
from routing.health import Health
from routing.model import Routes
from spendgate.catalog import SIMULATED, load_catalog, smallest_call_nano
from spendgate.ledger_access import ledger_of
from spendgate.open_ledger import OFF
from spendgate.replaying import rulebooks
from spendgate.settings import Settings, read_settings
from spendgate.snapshot import Snapshot
from telemetry.prices import PriceBook

T = TypeVar("T")

simulate = typer.Typer(help="What if: a call that is not made, or the past under another budget.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="For programs: as POST /api/simulate.")]


@dataclass(slots=True)
class _Here:
    """Replays in this process."""

    settings: Settings
    deps: Deps

    async def replay(self, ask: ReplayAsk) -> Replay:
        """The past under another budget."""
        rules = rulebooks(self.deps.routes, self.deps.prices, self.deps.clock)
        async with ledger_of(self.settings) as ledger:
            return await replay(ask, ledger, rules, self.deps.clock)


@simulate.command("call")
def simulate_call(
    scope: Annotated[list[str] | None, typer.Option(help="Who pays, such as agent:bot; repeat.")] = None,
    key: Annotated[str | None, typer.Option(help="The id of an agent key, with its scopes.")] = None,
    model: Annotated[str | None, typer.Option(help="The primary, if none is named.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Its text.")] = None,
    input_tokens: Annotated[int | None, typer.Option(help="In place of a text: about how many tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Of the answer.")] = None,
    as_json: AsJson = False,
) -> None:
    """What would happen to a call now. Nothing is held or spent."""
    given: dict[str, Any] = {"scopes": scope or [], "keyId": key, "model": model, "prompt": prompt}
    given |= {"inputTokens": input_tokens, "maxTokens": max_tokens}
    run = _with_deps(lambda deps: dry_run(deps, parse_spec(CallSpec, _given(given))))
    if as_json:
        typer.echo(orjson.dumps(shown(run)))
    else:
        _tell_call(run)


@simulate.command("replay")
def simulate_replay(
    budget: Annotated[str | None, typer.Option(help="The id of a budget; what is named below changes it.")] = None,
    scope: Annotated[str | None, typer.Option(help="Or a budget that there is not, on team:ml or agent:*.")] = None,
    limit: Annotated[str | None, typer.Option(help="US dollars for each period.")] = None,
    soft_cap: Annotated[str | None, typer.Option(help="Share of the limit above which it is Warned.")] = None,
    hard_cap: Annotated[str | None, typer.Option(help="Share of the limit beyond which nothing is spent.")] = None,
    cadence: Annotated[str | None, typer.Option(help="daily, weekly, monthly, …")] = None,
    zone: Annotated[str | None, typer.Option(help="Whose days.")] = None,
    downgrade: Annotated[list[str] | None, typer.Option(help="A rule, dbrx=mixtral or *=mixtral; repeat.")] = None,
    no_downgrade: Annotated[bool, typer.Option("--no-downgrade", help="No model but the one asked for.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="Ask for another, such as dbrx=mixtral; repeat.")] = None,
    days: Annotated[int, typer.Option(help="The last days, today among them.", min=1)] = 7,
    start: Annotated[str | None, typer.Option("--from", help="A day, or an instant with a zone.")] = None,
    end: Annotated[str | None, typer.Option("--to", help="The same, exclusive.")] = None,
    seconds: Annotated[int, typer.Option(help="No more is read after them.", min=1, max=600)] = 600,
    as_json: AsJson = False,
) -> None:
    """What the past would have been under another budget."""
    rules = [] if no_downgrade else [_rule("--downgrade", text) for text in downgrade or ()] or None
    terms: dict[str, Any] = {
        "limitUsd": limit,
        "softCap": soft_cap,
        "hardCap": hard_cap,
        "cadence": cadence,
        "timeZone": zone,
    }
    terms = _given(terms | {"downgrade": rules})
    when = _given({"days": days, "from": start, "to": end, "maxSeconds": seconds})
    spec: dict[str, Any] = when | {"models": [_rule("--model", text) for text in model or ()]}
    if scope is None:
        spec |= {"budgetId": budget, "changes": terms}
    else:
        kind, _, name = scope.partition(":")
        spec |= {"budget": {"scopeType": kind, "scopeKey": name} | terms, "budgetId": budget}

    async def run(deps: Deps) -> tuple[ReplayAsk, Replay]:
        ask = await replay_ask(deps, parse_spec(ReplaySpec, spec))
        return ask, await replayed(deps, ask)

    ask, found = _with_deps(run)
    if as_json:
        typer.echo(orjson.dumps(shown_replay(ask, found)))
    else:
        _tell_replay(ask, found)


def _tell_call(run: DryRun) -> None:
    typer.echo(f"{run.outcome}: {run.model_requested} -> {run.model_served or 'nothing'}")
    if run.why:
        typer.echo(f"    {run.why}")
    verdict = run.verdict
    if not isinstance(verdict, Refused):
        typer.echo(
            f"    holds ${format_usd(verdict.hold.amount_nano)}, for up to {verdict.hold.tokens} tokens of answer"
        )
    table = _table(["", "account", "state"], ["spent", "held", "limit", "hard cap"])
    for number, terms in enumerate(verdict.plan.accounts):
        balance = before(run, number)
        nano = (balance.spent_nano, balance.held_nano, terms.limit_nano, terms.hard_nano)
        sums = [format_usd(n) for n in nano]
        table.add_row("*" if number == run.decides else "", terms.id, balance.state.label, *sums)
    Console().print(table)
    typer.echo("* decides; US dollars")
    for text in assumptions(run):
        typer.echo(f"- {text}")


def _tell_replay(ask: ReplayAsk, found: Replay) -> None:
    table = _table(["day"], ["US dollars", "saved", "calls", "downgraded", "refused"])
    for day in found.days:
        table.add_row(period_at("daily", ask.budget.zone, day.start_ms).id, *_cells(day.actual, day.simulated))
    table.add_row("in all", *_cells(found.actual, found.simulated))
    Console().print(table)
    typer.echo(f"It was -> it would have been. Days of {ask.budget.zone}.")
    if found.until_ms is not None:
        typer.echo(f"Only calls before {iso_utc(found.until_ms)} were reached in time; give it more --seconds.")
    typer.echo(f"The calls that would be refused did cost ${format_usd(found.refused_cost_nano)}.")
    if found.let_through:
        typer.echo(f"{found.let_through} calls that were refused would be let through.")
    if found.unjudged:
        typer.echo(f"{found.unjudged} calls are for models that the routes do not know, and stay as they were.")
    typer.echo(f"{found.read:,} rows of the ledger in {found.took_ms / 1000:.1f} s.")
    for text in ASSUMPTIONS:
        typer.echo(f"- {text}")


def _cells(was: Tally, would: Tally) -> list[str]:
    pairs = ((was.calls, would.calls), (was.downgraded, would.downgraded), (was.refused, would.refused))
    money = [f"{_usd(was.spent_nano)} -> {_usd(would.spent_nano)}", _usd(was.spent_nano - would.spent_nano)]
    return money + [f"{a:,} -> {b:,}" for a, b in pairs]


def _usd(nano: int) -> str:
    return f"{Decimal(nano) / NANO_PER_USD:,.4f}"


def _table(texts: list[str], numbers: list[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in texts:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rule(option: str, text: str) -> dict[str, str]:
    name, separator, to = text.partition("=")
    if not separator:
        raise typer.BadParameter("must look like dbrx=mixtral", param_hint=option)
    return {"from": name, "to": to}


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _with_deps(work: Callable[[Deps], Awaitable[T]]) -> T:
    """Do something with the live state, the ledger and the catalog that the settings name; errors end it with 1."""

    async def run() -> T:
        settings = read_settings()
        own = settings.databricks_base_url or settings.routes
        catalog = load_catalog(settings, os.environ if own else os.environ | SIMULATED)
        url = settings.redis_url or running_url(settings.data_dir / "valkey")
        store = RedisBudgetStore(connect(url), namespace=settings.namespace)
        try:
            await store.trust()
            return await work(_deps(settings, store, *catalog))
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except SpendgateError as error:
        typer.echo(f"spendgate: {error.message}", err=True)
        raise typer.Exit(1) from None


def _deps(settings: Settings, store: RedisBudgetStore, routes: Routes, prices: PriceBook) -> Deps:
    clock = SystemClock()
    book = BudgetBook(smallest_call_nano=smallest_call_nano(routes, prices, clock.now_ms()))
    keys, ids = KeyRing(), RandomIds(clock)
    snapshot = Snapshot(store, book, keys)
    budgets = BudgetService(store, book, clock, ids, snapshot.refresh, owner="simulate")
    flow = ChatFlow(Planner(routes, prices, book, Health(clock)), budgets, Upstreams(routes, clock), clock)
    dry_runs = DryRuns(flow, keys, clock, snapshot.refresh)
    deps = Deps(store, store, book, keys, routes, prices, clock, ids, snapshot.refresh, None, dry_runs)
    if settings.ledger != OFF:
        deps.replays = _Here(settings, deps)
    return deps
