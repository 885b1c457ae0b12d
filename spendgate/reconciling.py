"""`spendgate reconcile`: gathers both sides, compares, and writes what was found to be wrong.

An adjustment of a call that the live state still remembers goes through its accounts, as a true-up, and from there into
the ledger like any event. One that it has forgotten becomes a record of the ledger's own.
"""

import asyncio
import os
from pathlib import Path

import orjson

from budget.model import Basis, Resolution, ResolveMode
from budget.redis_store import RedisBudgetStore
from collectors.databricks_usage import DatabricksUsage
from collectors.helicone_export import HeliconeExport
from core.errors import ConfigError
from ledger.errors import LedgerUnavailable
from ledger.model import CallRow
from ledger.ports import Adjustment, CallsAsk, Interval, LedgerReader
from ledger.reconcile import AccountDrift, Pricing, Report, UsageSource, compare_accounts, compare_calls
from routing.model import Routes
from spendgate.catalog import SIMULATED, load_catalog
from spendgate.settings import Settings
from telemetry.overrides import PRICE_KIND, load_override
from telemetry.prices import Price, PriceBook, UnpricedModel
from telemetry.pricing import cost_nano
from telemetry.usage import Tokens

_PAGE = 5_000
#: Calls of a provider's record that begin in the interval may have ended, here, up to this long after it.
_LATE_MS = 3_600_000
#: The ledger is waited for, ten seconds in all.
_TRIES, _AGAIN_S = 50, 0.2
#: Accounts of one question, and how often one that differs is looked at.
_ACCOUNTS, _LOOKS = 50, 3


async def reconcile_with(
    ledger: LedgerReader,
    live: RedisBudgetStore,
    settings: Settings,
    interval: Interval,
    *,
    databricks: str | None,
    helicone: Path | None,
    apply: bool,
) -> tuple[Report, int]:
    """The report, and how many adjustments were written.

    databricks: the id of a SQL warehouse; helicone: a file; None: not compared with.

    Raises:
        SpendgateError: a side can't be read; nothing is written then.
    """
    await live.trust()
    report = Report("live accounts")
    report.behind = await _caught_up(ledger, live)
    report.accounts = await _drifting(ledger, live, wait=not report.behind)
    price = await _pricing(settings, live)
    if databricks:
        async with DatabricksUsage(_host(settings), _token(), databricks) as source:
            await _compare(report, source, ledger, live, interval, price)
    if helicone:
        await _compare(report, HeliconeExport(helicone), ledger, live, interval, price)
    if apply and report.behind:
        raise LedgerUnavailable(
            f"the ledger is {report.behind} events behind: no adjustment can be told from these yet"
        )
    return report, await _apply(ledger, live, report) if apply else 0


async def _caught_up(ledger: LedgerReader, live: RedisBudgetStore) -> int:
    """Wait until the ledger has all that the live state has counted by now; how many events it lacks if it stands."""
    counted, lacks = await live.look(), 0
    for _ in range(_TRIES):
        facts = await ledger.facts()
        lacks = max(0, counted.sequence - (facts["sequence"] if facts["epoch"] == counted.epoch else 0))
        if not lacks:
            break
        await asyncio.sleep(_AGAIN_S)
    return lacks


async def _drifting(ledger: LedgerReader, live: RedisBudgetStore, *, wait: bool) -> list[AccountDrift]:
    """Accounts that differ. While calls go on, only those that differ however often one looks.

    wait: for the ledger, after each look at the live state.
    """
    suspects, drifting = await live.all_accounts(), list[AccountDrift]()
    for _ in range(_LOOKS):
        drifting = []
        for start in range(0, len(suspects), _ACCOUNTS):
            some = suspects[start : start + _ACCOUNTS]
            before = await _spent(live, some)
            if wait:
                await _caught_up(ledger, live)
            points = await ledger.postings(some)
            drifting += compare_accounts(points, before, await _spent(live, some))
        suspects = [d.account_id for d in drifting]
        if not suspects:
            break
    return drifting


async def _spent(live: RedisBudgetStore, account_ids: list[str]) -> dict[str, int]:
    return {b.id: b.spent_nano for b in await live.balances(account_ids)}


async def _compare(
    report: Report,
    source: UsageSource,
    ledger: LedgerReader,
    live: RedisBudgetStore,
    interval: Interval,
    price: Pricing,
) -> None:
    """What the provider knows is read first: then a call of it is either open here, or soon in the ledger."""
    report.source = source.name
    there = [call async for call in source.calls(interval)]
    in_flight = {hold.id for hold in await live.open_holds()}
    report.behind = max(report.behind, await _caught_up(ledger, live))
    compare_calls(report, await _calls(ledger, interval), there, price, in_flight)


async def _calls(ledger: LedgerReader, interval: Interval) -> list[CallRow]:
    found: list[CallRow] = []
    before: tuple[int, str] | None = None
    late = Interval(interval.start_ms, interval.end_ms + _LATE_MS)
    while page := await ledger.call_list(CallsAsk(late, limit=_PAGE, before=before)):
        found += page
        before = (page[-1].at_ms, page[-1].identity)
    return found


async def _apply(ledger: LedgerReader, live: RedisBudgetStore, report: Report) -> int:
    written, forgotten = 0, []
    for adjustment in report.adjustments:
        if await _true_up(live, adjustment):
            written += 1
        else:
            forgotten.append(adjustment)
    return written + (await ledger.adjust(forgotten) if forgotten else 0)


async def _true_up(live: RedisBudgetStore, adjustment: Adjustment) -> bool:
    """Whether the live state knew the call, and took it."""
    hold_id = adjustment.call.hold_id
    found = await live.find(hold_id)
    if found is None:
        return False
    detail = orjson.dumps({"source": adjustment.source, "why": adjustment.why})
    settlement = await live.resolve(
        Resolution(hold_id, ResolveMode.TRUE_UP, found.account_ids, adjustment.cost_nano, Basis.EXACT, detail)
    )
    return settlement.applied


async def _pricing(settings: Settings, live: RedisBudgetStore) -> Pricing:
    """As calls were charged: by the files, and by the overrides that people set."""
    own = settings.databricks_base_url or settings.routes
    routes, prices = load_catalog(settings, os.environ if own else os.environ | SIMULATED)
    for change in (await live.changes_since(0))[1]:
        if change.kind == PRICE_KIND and change.text is not None:
            prices.put(load_override(change.text, revision=change.version))

    def price(model: str, at_ms: int, input_tokens: int, output_tokens: int) -> int | None:
        found = _priced(routes, prices, model, at_ms)
        return None if found is None else cost_nano(found, Tokens(input=input_tokens, output=output_tokens))

    return price


def _priced(routes: Routes, prices: PriceBook, model: str, at_ms: int) -> Price | None:
    named = [m.name for m in routes.models if model in (m.name, m.upstream_name, *m.aliases)] or [model]
    try:
        return prices.price_at(named[0], at_ms)
    except UnpricedModel:
        return None


def _host(settings: Settings) -> str:
    if not settings.databricks_base_url:
        raise ConfigError("DATABRICKS_BASE_URL must name the workspace whose usage is compared")
    return settings.databricks_base_url.rstrip("/").removesuffix("/serving-endpoints")


def _token() -> str:
    token = os.environ.get("DATABRICKS_API_KEY")
    if not token:
        raise ConfigError("DATABRICKS_API_KEY must be a token that may read system.serving")
    return token
