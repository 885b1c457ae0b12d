"""`spendgate budget …` and `spendgate models`: the same changes, checks and answers as /api/budgets and /api/models."""

from decimal import Decimal
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table

from budget.codec import BudgetSpec, ResetSpec, TopUpSpec, parse_spec
from budget.model import Budget
from core.clock import iso_utc
from core.money import PICO_PER_NANO, format_usd
from core.scope import parse_scope_text
from dashboard.budget_writer import BudgetWriter
from dashboard.budgets import shown_budget
from dashboard.deps import Deps
from dashboard.models import shown_model
from dashboard.prices import PriceStep, price_steps
from dashboard.specs import with_reset, with_top_up
from spendgate.cli_deps import with_deps
from spendgate.tables import console

budget = typer.Typer(help="Budgets: list, make, change, top up.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="For programs: as the API answers.")]
Id = Annotated[str, typer.Argument(help="The budget's id.", show_default=False)]
OneKey = Annotated[str | None, typer.Option(help="For one key of a budget on type:*.", show_default=False)]
Limit = Annotated[str | None, typer.Option(help="US dollars for each period.", show_default=False)]
Cadence = Annotated[str | None, typer.Option(help="hourly, daily, weekly, monthly, total, …", show_default=False)]
Zone = Annotated[str | None, typer.Option(help="Whose days, such as Europe/Berlin.", show_default=False)]
SoftCap = Annotated[str | None, typer.Option(help="Share of the limit above which it is Warned.", show_default=False)]
HardCap = Annotated[
    str | None, typer.Option(help="Share of the limit beyond which nothing is spent.", show_default=False)
]
Downgrade = Annotated[list[str] | None, typer.Option(help="A rule, dbrx=mixtral or *=mixtral; repeat.")]
NoDowngrade = Annotated[bool, typer.Option("--no-downgrade", help="No model but the one asked for.")]
Disable = Annotated[list[str] | None, typer.Option(help="A tool that Degraded calls lose; repeat.")]


@budget.command("list")
def list_budgets(
    scope_type: Annotated[str | None, typer.Option(help="Only those on agents, teams, …", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Every budget, by id."""
    found = with_deps(lambda deps, _: _all(deps, scope_type))
    if as_json:
        typer.echo(orjson.dumps({"budgets": [shown for shown, _ in found]}))
        return
    table = _table(["id", "scope", "cadence", "from", ""], ["limit, $", "soft", "hard"])
    for _, one in found:
        policy = one.policy
        state = "paused" if one.paused else ""
        caps = (f"{policy.soft_cap:.0%}", f"{policy.hard_cap:.0%}")
        table.add_row(one.id, str(one.scope), one.cadence, one.source, state, format_usd(one.limit_nano), *caps)
    console().print(table)


@budget.command("show")
def show_budget(budget_id: Id, as_json: AsJson = False) -> None:
    """One budget, with its terms and top-ups."""

    async def one(deps: Deps, _: object) -> dict[str, Any]:
        await deps.refresh()
        return shown_budget(deps.book.get(budget_id), deps.clock.now_ms())

    _tell(with_deps(one), as_json)


@budget.command("create")
def create_budget(
    scope: Annotated[str, typer.Option(help="What it watches: agent:bot, team:ml, agent:* for each agent, …")],
    limit: Annotated[str, typer.Option(help="US dollars for each period.")],
    budget_id: Annotated[str | None, typer.Option("--id", help="Made from scope and cadence if left out.")] = None,
    cadence: Cadence = None,
    zone: Zone = None,
    soft_cap: SoftCap = None,
    hard_cap: HardCap = None,
    downgrade: Downgrade = None,
    no_downgrade: NoDowngrade = False,
    disable_tool: Disable = None,
    as_json: AsJson = False,
) -> None:
    """Make a budget. In force in every worker within a second."""
    given = _terms(limit, cadence, zone, (soft_cap, hard_cap), (downgrade, no_downgrade), disable_tool)
    given |= {"id": budget_id} if budget_id else {}

    async def create(deps: Deps, _: object) -> dict[str, Any]:
        watched = parse_scope_text("--scope", scope, wildcard=True)
        spec = parse_spec(BudgetSpec, given | {"scopeType": watched.type, "scopeKey": watched.key})
        return await _shown(deps, BudgetWriter(deps).create(spec))

    _tell(with_deps(create), as_json)


@budget.command("change")
def change_budget(
    budget_id: Id,
    limit: Limit = None,
    cadence: Cadence = None,
    zone: Zone = None,
    soft_cap: SoftCap = None,
    hard_cap: HardCap = None,
    downgrade: Downgrade = None,
    no_downgrade: NoDowngrade = False,
    disable_tool: Disable = None,
    as_json: AsJson = False,
) -> None:
    """Change what is named; the rest stays. What is spent in the period counts on."""
    given = _terms(limit, cadence, zone, (soft_cap, hard_cap), (downgrade, no_downgrade), disable_tool)
    if not given:
        raise typer.BadParameter("name at least one term to change")
    _edit(budget_id, given, as_json)


@budget.command("pause")
def pause_budget(budget_id: Id, as_json: AsJson = False) -> None:
    """Take a budget out of force without losing it."""
    _edit(budget_id, {"paused": True}, as_json)


@budget.command("resume")
def resume_budget(budget_id: Id, as_json: AsJson = False) -> None:
    """Bring a paused budget back into force."""
    _edit(budget_id, {"paused": False}, as_json)


@budget.command("top-up")
def top_up_budget(
    budget_id: Id,
    amount: Annotated[str, typer.Option(help="US dollars, for the current period only.")],
    reason: Annotated[str, typer.Option(help="For the record.")],
    scope_key: Annotated[
        str | None, typer.Option(help="For one key of a budget on type:*.", show_default=False)
    ] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="An instant, such as 2026-11-23T18:00Z.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Extra money for the current period."""
    given = {"amountUsd": amount, "reason": reason, "scopeKey": scope_key, "expiresAt": expires_at}

    async def top_up(deps: Deps, _: object) -> dict[str, Any]:
        spec, now_ms, top_up_id = parse_spec(TopUpSpec, given), deps.clock.now_ms(), deps.ids.new("top")
        changed = BudgetWriter(deps).change(
            budget_id, lambda one: with_top_up(one, spec, top_up_id=top_up_id, now_ms=now_ms), None
        )
        return await _shown(deps, changed)

    _tell(with_deps(top_up), as_json)


@budget.command("reset")
def reset_budget(
    budget_id: Id,
    reason: Annotated[str, typer.Option(help="For the record.")],
    scope_key: Annotated[
        str | None, typer.Option(help="For one key of a budget on type:*.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A fresh start within the current period; what was spent stays in the record."""

    async def reset(deps: Deps, _: object) -> dict[str, Any]:
        spec, now_ms = parse_spec(ResetSpec, {"reason": reason, "scopeKey": scope_key}), deps.clock.now_ms()
        changed = BudgetWriter(deps).change(budget_id, lambda one: with_reset(one, spec, now_ms=now_ms), None)
        return await _shown(deps, changed)

    _tell(with_deps(reset), as_json)


@budget.command("delete")
def delete_budget(budget_id: Id, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Delete a budget: it limits nothing any more, its accounts stay in the record."""
    if not yes:
        typer.confirm(f"Delete the budget {budget_id}?", abort=True)
    with_deps(lambda deps, _: BudgetWriter(deps).delete(budget_id, None))
    typer.echo(f"deleted {budget_id}")


def models(as_json: AsJson = False) -> None:
    """The models that can be called, with every price they have, had or will have, per million tokens."""

    async def found(deps: Deps, _: object) -> list[tuple[dict[str, Any], list[PriceStep]]]:
        await deps.refresh()
        now_ms = deps.clock.now_ms()
        return [(shown_model(deps, m, now_ms), price_steps(deps, m.name)) for m in deps.routes.models]

    rows = with_deps(found)
    if as_json:
        typer.echo(orjson.dumps({"models": [shown for shown, _ in rows]}))
        return
    texts = ["model", "role", "endpoint", "from, UTC", "now", "price from"]
    table = _table(texts, ["input, $", "cached, $", "output, $"])
    for shown, steps in rows:
        for number, step in enumerate(steps):
            head = ("", "", "") if number else (shown["name"], shown["role"], shown["endpoint"])
            price, source = step.price, f"override: {step.override.reason}" if step.override else step.price.source
            rates = (price.input_pico, price.cached_input_pico, price.output_pico)
            since = iso_utc(price.effective_from_ms)[:16].replace("T", " ")
            money = [format_usd(pico * PICO_PER_NANO) for pico in rates]
            table.add_row(*head, since, step.word, source, *money)
        if not steps:
            table.add_row(shown["name"], shown["role"], shown["endpoint"], "no price: it can't be called")
    console().print(table)


async def _all(deps: Deps, scope_type: str | None) -> list[tuple[dict[str, Any], Budget]]:
    await deps.refresh()
    now_ms = deps.clock.now_ms()
    return [(shown_budget(b, now_ms), b) for b in deps.book.all() if scope_type in (None, b.scope.type)]


async def _shown(deps: Deps, writing: Any) -> dict[str, Any]:
    return shown_budget(await writing, deps.clock.now_ms())


def _edit(budget_id: str, given: dict[str, Any], as_json: bool) -> None:
    _tell(with_deps(lambda d, _: _shown(d, BudgetWriter(d).edit(budget_id, given, None, partial=True))), as_json)


def _terms(
    limit: str | None,
    cadence: str | None,
    zone: str | None,
    caps: tuple[str | None, str | None],
    downgrade: tuple[list[str] | None, bool],
    disabled_tools: list[str] | None,
) -> dict[str, Any]:
    """What was named, as a `BudgetSpec` has it."""
    terms: dict[str, Any] = {"limitUsd": limit, "cadence": cadence, "timeZone": zone}
    terms |= {"softCap": caps[0], "hardCap": caps[1], "disabledTools": disabled_tools}
    rules, none = downgrade
    if none:
        terms["allowDowngrade"] = False
    elif rules:
        terms["downgrade"] = [rule_of("--downgrade", text) for text in rules]
    return {name: value for name, value in terms.items() if value is not None}


def rule_of(option: str, text: str) -> dict[str, str]:
    """``dbrx=mixtral`` as a rule.

    Raises:
        typer.BadParameter: it has another shape.
    """
    name, separator, to = text.partition("=")
    if not separator:
        raise typer.BadParameter("must look like dbrx=mixtral", param_hint=option)
    return {"from": name, "to": to}


def _tell(shown: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(orjson.dumps(shown))
        return
    period = shown["currentPeriod"]
    until = f", until {period['end']}" if period["end"] else ""
    paused = " (paused: it limits nothing)" if shown["paused"] else ""
    typer.echo(
        f"{shown['id']}: ${shown['limitUsd']} {shown['cadence']} on {shown['scopeType']}:{shown['scopeKey']}{paused}"
    )
    typer.echo(f"    Warned above {_share(shown['softCap'])}, nothing beyond {_share(shown['hardCap'])} of it")
    typer.echo(f"    period {period['id']}{until}, zone {shown['timeZone']}; revision {shown['revision']}")
    for top_up in shown["topUps"]:
        typer.echo(f"    topped up by ${top_up['amountUsd']} until {top_up['expiresAt']}: {top_up['reason']}")


def _share(text: str) -> str:
    return f"{Decimal(text):.0%}"


def _table(texts: list[str], numbers: list[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(texts):
        table.add_column(name, overflow="fold", no_wrap=not number)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table
