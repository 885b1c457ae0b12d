"""The command line."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated, TypeVar

import typer

from budget.connect import connect
from budget.embedded import running_url
from budget.redis_store import RedisBudgetStore
from budget.verify import Verification, verify
from core.clock import SystemClock
from core.errors import ConfigError, SpendgateError
from core.key_codec import KEY_KIND
from core.keys import KeyRole
from core.scope import Scope, parse_scope_text
from spendgate import __version__, cli_budget, cli_export, cli_ledger, cli_simulate, cli_spend, cli_top
from spendgate.bootstrap import create_key, stored_keys
from spendgate.catalog import SIMULATED, load_catalog
from spendgate.guarantees import guarantees
from spendgate.logs import set_up_logging
from spendgate.settings import Role, read_settings
from spendgate.supervisor import serve as run_supervisor

app = typer.Typer(
    name="spendgate",
    help="Keeps the spend of AI agents inside its budgets. Settings come from the environment; see docs/settings.md.",
    no_args_is_help=True,
    add_completion=False,
)
keys = typer.Typer(help="API keys, in the store that REDIS_URL or the data folder names.", no_args_is_help=True)
app.add_typer(keys, name="key")
app.add_typer(cli_budget.budget, name="budget")
app.add_typer(cli_ledger.ledger, name="ledger")
app.add_typer(cli_simulate.simulate, name="simulate")
for command in (
    cli_top.top,
    cli_budget.models,
    cli_spend.spend,
    cli_spend.calls,
    cli_spend.compare,
    cli_ledger.explain,
    cli_ledger.reconcile,
    cli_export.export,
):
    app.command()(command)

T = TypeVar("T")


def _fail(error: SpendgateError) -> typer.Exit:
    typer.echo(f"spendgate: {error.message}", err=True)
    return typer.Exit(1)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (SPENDGATE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one (PORT).")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes (SPENDGATE_WORKERS).")] = None,
    role: Annotated[Role | None, typer.Option(help="What to serve (SPENDGATE_ROLE).")] = None,
) -> None:
    """Start the gateway, with an embedded store and a simulated Databricks where none are configured."""
    given = {"SPENDGATE_HOST": host, "PORT": port, "SPENDGATE_WORKERS": workers, "SPENDGATE_ROLE": role}
    try:
        settings = read_settings({k: str(v) for k, v in given.items() if v is not None})
    except ConfigError as error:
        raise _fail(error) from None
    set_up_logging(settings.log_level)
    raise typer.Exit(run_supervisor(settings))


@app.command("simulate-databricks", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def simulate_databricks(
    context: typer.Context,
    help_: Annotated[bool, typer.Option("--help", help="Show the simulator's options.")] = False,
) -> None:
    """A simulated Databricks model-serving endpoint, with its own bill and errors on request."""
    from simulator.serve import main  # a process of its own kind: not loaded by the other commands

    raise typer.Exit(main(["--help"] if help_ else context.args))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command("verify")
def verify_books(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Check that balances, open holds and events agree; exit code 1 if they do not."""

    async def check(store: RedisBudgetStore) -> Verification:
        await store.trust()
        return await verify(store)

    result = _on_store(check)
    if as_json:
        typer.echo(json.dumps(asdict(result)))
    else:
        typer.echo(f"checked {result.accounts} accounts, {result.open_holds} open holds, {result.events} events")
        for drift in result.drift:
            typer.echo(f"DRIFT {drift.subject}: {drift.rule}: expected {drift.expected}, found {drift.found}")
        if not result.drift:
            typer.echo("no drift: held = open holds, spent = events, every hold open or ended once")
    raise typer.Exit(1 if result.drift else 0)


@app.command("guarantees")
def show_guarantees() -> None:
    """Say what is guaranteed in this very configuration, and what is not."""
    try:
        settings = read_settings()
        own = settings.databricks_base_url or settings.routes
        routes, _ = load_catalog(settings, os.environ if own else os.environ | SIMULATED)
    except ConfigError as error:
        raise _fail(error) from None
    report = _on_store(lambda store: store.check())
    for guarantee in guarantees(report, routes, settings):
        typer.echo(("holds      " if guarantee.holds else "NOT HELD   ") + guarantee.text)


@keys.command("create")
def key_create(
    name: Annotated[str, typer.Option(help="What the key is for.")],
    role: Annotated[KeyRole, typer.Option(help="agent calls models; admin manages and reads.")] = KeyRole.AGENT,
    scope: Annotated[list[str] | None, typer.Option(help="Charged for every call, such as agent:bot; repeat.")] = None,
    may_name: Annotated[list[str] | None, typer.Option(help="Callers may name it, such as user:*; repeat.")] = None,
) -> None:
    """Make a key and print it, this once."""

    async def make(store: RedisBudgetStore) -> str:
        return await create_key(
            store,
            SystemClock(),
            name=name,
            role=role,
            scopes=_scopes("--scope", scope),
            may_name=_scopes("--may-name", may_name, wildcard=True),
            source="api",
        )

    typer.echo(_on_store(make))


@keys.command("list")
def key_list() -> None:
    """Every key: id, role, name, scopes."""
    for key in _on_store(stored_keys):
        scopes = " ".join(str(s) for s in key.scopes)
        typer.echo(f"{key.id}  {key.role.value:<5}  {key.name}  {scopes}")


@keys.command("delete")
def key_delete(key_id: Annotated[str, typer.Argument(help="The key's id, as in `spendgate key list`.")]) -> None:
    """Make a key useless within a second."""

    async def delete(store: RedisBudgetStore) -> None:
        if not any(k.id == key_id for k in await stored_keys(store)):
            raise ConfigError(f"there is no key {key_id}")
        await store.put(KEY_KIND, key_id, None)

    _on_store(delete)


def _scopes(option: str, texts: list[str] | None, *, wildcard: bool = False) -> tuple[Scope, ...]:
    return tuple(parse_scope_text(option, text, wildcard=wildcard) for text in texts or ())


def _on_store(work: Callable[[RedisBudgetStore], Awaitable[T]]) -> T:
    async def run() -> T:
        settings = read_settings()
        url = settings.redis_url or running_url(settings.data_dir / "valkey")
        store = RedisBudgetStore(connect(url), namespace=settings.namespace)
        try:
            return await work(store)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except SpendgateError as error:
        raise _fail(error) from None
