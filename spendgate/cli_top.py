"""`spendgate top`: who spends how fast now, live in the terminal. It follows the store's events and asks no worker."""

import asyncio
import contextlib
import sys
import termios
import tty
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from core.clock import iso_utc
from core.errors import StoreUnavailable
from core.money import NANO_PER_USD
from dashboard.deps import Deps
from dashboard.formats import STATE_ICONS
from dashboard.spend import AccountSpend, current_spend
from spendgate.cli_deps import with_deps
from spendgate.tables import console

#: Over how long a rate is taken.
_WINDOW_S = 60
_PAGE = 1_000
_COLOURS = ("green", "yellow", "dark_orange", "red")
SORTS = ("rate", "spent", "left", "name")


@dataclass(slots=True)
class Rates:
    """What was posted to each account in the last minute, by seconds, and which model served it last.

    after: the id of the last event that was read.
    """

    after: str
    posted: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    model: dict[str, str] = field(default_factory=dict)

    def take(self, events: list[tuple[str, dict[str, str]]]) -> None:
        """Count some events."""
        for event_id, fields in events:
            self.after = event_id
            if "delta_nano" not in fields:
                continue
            second = int(fields["at_ms"]) // 1000
            served = orjson.loads(fields["detail"]).get("model_served")
            for account in fields["accounts"].split("\n"):
                self.posted[account][second] += int(fields["delta_nano"])
                if served:
                    self.model[account] = served

    def nano_an_hour(self, account: str, now_ms: int) -> int:
        """How fast an account is spent, in nano-dollars an hour."""
        seconds = self.posted.get(account)
        if not seconds:
            return 0
        oldest = now_ms // 1000 - _WINDOW_S
        for second in [s for s in seconds if s <= oldest]:
            del seconds[second]
        return sum(seconds.values()) * 3600 // _WINDOW_S


@dataclass(slots=True)
class Line:
    """An account as it is shown."""

    row: AccountSpend
    nano_an_hour: int
    model: str | None

    def as_json(self) -> dict[str, Any]:
        """For programs; money in exact dollars, as text."""
        terms = self.row.terms
        return {
            "account": terms.id,
            "scope": str(terms.scope),
            "budgetId": terms.budget.id,
            "state": self.row.state.label,
            "usdPerHour": _exact(self.nano_an_hour),
            "spentUsd": _exact(self.row.spent_nano),
            "heldUsd": _exact(self.row.held_nano),
            "remainingUsd": _exact(max(0, terms.limit_nano - self.row.spent_nano)),
            "limitUsd": _exact(terms.limit_nano),
            "model": self.model,
        }


def top(
    by: Annotated[str | None, typer.Option(help="Only scopes of this type: agent, team, user, …")] = None,
    sort: Annotated[str, typer.Option(help="rate, spent, left or name.")] = "rate",
    lines: Annotated[int, typer.Option(help="Accounts at most; 0: as many as fit.", min=0)] = 0,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=60)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a line of JSON for each look.")] = False,
) -> None:
    """Who spends now: accounts by spend rate, with state, spent, in flight, left and the model that serves them.

    The rate is that of the last 60 seconds. q ends it.
    """
    if sort not in SORTS:
        raise typer.BadParameter(f"must be one of {', '.join(SORTS)}", param_hint="--sort")

    async def run(deps: Deps, _: object) -> None:
        rates = Rates(f"{deps.clock.now_ms() - _WINDOW_S * 1000}-0")
        if once or as_json:
            while True:
                found = await _look(deps, rates, by, sort)
                _print(found[: lines or None], deps.clock.now_ms(), as_json)
                if once:
                    return
                await asyncio.sleep(every)
        await _watch(deps, rates, (by, sort, lines, every))

    with contextlib.suppress(KeyboardInterrupt):
        with_deps(run)


async def _look(deps: Deps, rates: Rates, by: str | None, sort: str) -> list[Line]:
    while rows := [e for e in await deps.store.events(rates.after, _PAGE + 1) if e[0] != rates.after]:
        rates.take(rows)
    await deps.refresh()
    now_ms = deps.clock.now_ms()
    found = [
        Line(row, rates.nano_an_hour(row.terms.id, now_ms), rates.model.get(row.terms.id))
        for row in await current_spend(deps.store, deps.book, now_ms)
        if by in (None, row.terms.scope.type)
    ]
    for account in set(rates.posted) - {line.row.terms.id for line in found}:
        del rates.posted[account]  # its period is over, or it is not shown
        rates.model.pop(account, None)
    orders: dict[str, Any] = {
        "rate": lambda line: (-line.nano_an_hour, -line.row.spent_nano, line.row.terms.id),
        "spent": lambda line: (-line.row.spent_nano, line.row.terms.id),
        "left": lambda line: (line.row.terms.limit_nano - line.row.spent_nano, line.row.terms.id),
        "name": lambda line: line.row.terms.id,
    }
    return sorted(found, key=orders[sort])


async def _watch(deps: Deps, rates: Rates, options: tuple[str | None, str, int, float]) -> None:
    """Draw it anew until somebody presses q."""
    by, sort, lines, every = options
    screen, ended = console(), asyncio.Event()
    with _keys(ended), Live(console=screen, screen=screen.is_terminal, auto_refresh=False) as live:
        while not ended.is_set():
            room = lines or max(1, screen.height - 5)
            try:
                found = await _look(deps, rates, by, sort)
                table = _table(found[:room], len(found), deps.clock.now_ms(), screen.width)
                table.caption, table.caption_justify = "q quits", "left"
                live.update(table, refresh=True)
            except StoreUnavailable as error:  # what was drawn stays, and it is tried again
                live.console.print(f"the store is away: {error.message}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), every)


@contextlib.contextmanager
def _keys(ended: asyncio.Event) -> Iterator[None]:
    """q, without Enter."""
    if not sys.stdin.isatty():
        yield
        return
    loop, fd = asyncio.get_running_loop(), sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    loop.add_reader(fd, lambda: ended.set() if sys.stdin.read(1) in "qQ" else None)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _print(found: list[Line], now_ms: int, as_json: bool) -> None:
    if as_json:
        accounts = [line.as_json() for line in found]
        typer.echo(orjson.dumps({"asOf": iso_utc(now_ms), "accounts": accounts}))
    else:
        wide = console()
        wide.print(_table(found, len(found), now_ms, wide.width))


def _table(found: list[Line], of: int, now_ms: int, width: int) -> Table:
    """At 80 columns, the narrowest that it is made for, held money and model are left out."""
    wide = width >= 110
    title = f"{iso_utc(now_ms)[:19].replace('T', ' ')} UTC   {len(found)} of {of} accounts   US dollars"
    table = Table(box=None, pad_edge=False, expand=True, title=title, title_justify="left", title_style="dim")
    table.add_column("account", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("state", no_wrap=True)
    for name in ("$ an hour", "spent", *(("in flight",) if wide else ()), "left", "limit"):
        table.add_column(name, justify="right", no_wrap=True)
    if wide:
        table.add_column("model", overflow="ellipsis", no_wrap=True)
    for line in found:
        row, terms = line.row, line.row.terms
        state = Text(f"{STATE_ICONS[row.state]} {row.state.label}", style=_COLOURS[row.state])
        money = [line.nano_an_hour, row.spent_nano, *((row.held_nano,) if wide else ())]
        money += [max(0, terms.limit_nano - row.spent_nano), terms.limit_nano]
        numbers = [_usd(nano) for nano in money]
        model = (line.model or "–",) if wide else ()
        table.add_row(f"{terms.scope} ({terms.budget.cadence})", state, *numbers, *model)
    if not found:
        table.add_row("Nothing is spent under any budget now.")
    return table


def _usd(nano: int) -> str:
    """Four decimals while it is little: agents spend fractions of a cent."""
    dollars = nano / NANO_PER_USD
    return f"{dollars:,.4f}" if abs(dollars) < 100 else f"{dollars:,.2f}"


def _exact(nano: int) -> str:
    return f"{nano // NANO_PER_USD}.{nano % NANO_PER_USD:09d}"
