"""`spendgate simulate`: a call that is not made, and the past under another budget; as `POST /api/simulate`."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

import orjson
import typer

from budget.codec import parse_spec
from budget.dry_run import DryRun
from budget.service import Refused
from core.clock import iso_utc
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
from spendgate.cli_budget import rule_of
from spendgate.cli_deps import with_deps
from spendgate.ledger_access import ledger_of
from spendgate.open_ledger import OFF
from spendgate.replaying import rulebooks
from spendgate.settings import Settings
from spendgate.tables import console, table_of

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
    run = with_deps(lambda deps, _: dry_run(deps, parse_spec(CallSpec, _given(given))))
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
    if bool(budget) == bool(scope):
        raise typer.BadParameter("name this or a --scope for a new one, and not both", param_hint="--budget")
    rules = [] if no_downgrade else [rule_of("--downgrade", text) for text in downgrade or ()] or None
    terms: dict[str, Any] = {
        "limitUsd": limit,
        "softCap": soft_cap,
        "hardCap": hard_cap,
        "cadence": cadence,
        "timeZone": zone,
    }
    terms = _given(terms | {"downgrade": rules})
    when = _given({"days": days, "from": start, "to": end, "maxSeconds": seconds})
    spec: dict[str, Any] = when | {"models": [rule_of("--model", text) for text in model or ()]}
    if scope is None:
        spec |= {"budgetId": budget, "changes": terms}
    else:
        kind, _, name = scope.partition(":")
        spec |= {"budget": {"scopeType": kind, "scopeKey": name} | terms, "budgetId": budget}

    async def run(deps: Deps, settings: Settings) -> tuple[ReplayAsk, Replay]:
        if settings.ledger != OFF:
            deps.replays = _Here(settings, deps)
        ask = await replay_ask(deps, parse_spec(ReplaySpec, spec))
        return ask, await replayed(deps, ask)

    ask, found = with_deps(run)
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
    table = table_of(["", "account", "state"], ["spent", "held", "limit", "hard cap"])
    for number, terms in enumerate(verdict.plan.accounts):
        balance = before(run, number)
        nano = (balance.spent_nano, balance.held_nano, terms.limit_nano, terms.hard_nano)
        sums = [format_usd(n) for n in nano]
        table.add_row("*" if number == run.decides else "", terms.id, balance.state.label, *sums)
    console().print(table)
    typer.echo("* decides; US dollars")
    for text in assumptions(run):
        typer.echo(f"- {text}")


def _tell_replay(ask: ReplayAsk, found: Replay) -> None:
    table = table_of(["day"], ["US dollars", "saved", "calls", "downgraded", "refused"])
    for day in found.days:
        table.add_row(period_at("daily", ask.budget.zone, day.start_ms).id, *_cells(day.actual, day.simulated))
    table.add_row("in all", *_cells(found.actual, found.simulated))
    console().print(table)
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


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
