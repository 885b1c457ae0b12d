"""`spendgate reconcile`: gathers both sides, compares, and writes what was found to be wrong.

An adjustment of a call that the live state still remembers goes through its accounts, as a true-up, and from there into
the ledger like any event. One that it has forgotten becomes a record of the ledger's own.
"""

import os
from pathlib import Path

import orjson

from budget.model import Basis, Resolution, ResolveMode
from budget.redis_store import RedisBudgetStore
from collectors.databricks_usage import DatabricksUsage
from collectors.helicone_export import HeliconeExport
from core.errors import ConfigError
from ledger.model import CallRow
from ledger.ports import Adjustment, CallsAsk, Interval, LedgerReader
from ledger.reconcile import Pricing, Report, compare_accounts, compare_calls
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
    balances = await live.balances(await live.all_accounts())
    spent = {b.id: b.spent_nano for b in balances}
    report = Report("live accounts", compare_accounts(await ledger.postings(None), spent))
    price = await _pricing(settings, live)
    if databricks:
        report.source = DatabricksUsage.name
        async with DatabricksUsage(_host(settings), _token(), databricks) as source:
            await compare_calls(report, await _calls(ledger, interval), source.calls(interval), price)
    if helicone:
        report.source = HeliconeExport.name
        calls = await _calls(ledger, interval)
        await compare_calls(report, calls, HeliconeExport(helicone).calls(interval), price)
    return report, await _apply(ledger, live, report) if apply else 0


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
