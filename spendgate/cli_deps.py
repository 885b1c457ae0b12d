"""What commands on the live state stand on: the store, the snapshot and the catalog that the settings name."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import typer

from budget.book import BudgetBook
from budget.connect import connect
from budget.copied import CopiedDocuments
from budget.embedded import running_url
from budget.redis_store import RedisBudgetStore
from budget.service import BudgetService
from core.clock import SystemClock
from core.errors import SpendgateError
from core.ids import RandomIds
from core.keys import KeyRing
from dashboard.deps import Deps
from gateway.chat import ChatFlow
from gateway.dry_run import DryRuns
from gateway.planner import Planner
from routing.adapters.registry import Upstreams
from routing.health import Health
from routing.model import Routes
from spendgate.catalog import SIMULATED, load_catalog, smallest_call_nano
from spendgate.settings import Settings, read_settings
from spendgate.snapshot import Snapshot
from telemetry.prices import PriceBook

T = TypeVar("T")


def with_deps(work: Callable[[Deps, Settings], Awaitable[T]]) -> T:
    """Do something with the live state that the settings name; errors are said, and end the program with 1."""

    async def run() -> T:
        settings = read_settings()
        own = settings.databricks_base_url or settings.routes
        catalog = load_catalog(settings, os.environ if own else os.environ | SIMULATED)
        url = settings.redis_url or running_url(settings.data_dir / "valkey")
        store = RedisBudgetStore(connect(url), namespace=settings.namespace)
        try:
            await store.trust()
            return await work(_deps(store, *catalog), settings)
        finally:
            await store.close()

    try:
        return asyncio.run(run())
    except SpendgateError as error:
        typer.echo(f"spendgate: {error.message}", err=True)
        raise typer.Exit(1) from None


def _deps(store: RedisBudgetStore, routes: Routes, prices: PriceBook) -> Deps:
    clock = SystemClock()
    book = BudgetBook(smallest_call_nano=smallest_call_nano(routes, prices, clock.now_ms()))
    keys, ids = KeyRing(), RandomIds(clock)
    snapshot = Snapshot(store, book, keys, prices)
    budgets = BudgetService(store, book, clock, ids, snapshot.refresh, owner="command")
    flow = ChatFlow(Planner(routes, prices, book, Health(clock)), budgets, Upstreams(routes, clock), clock)
    dry_runs = DryRuns(flow, keys, clock, snapshot.refresh)
    written = CopiedDocuments(store)
    return Deps(store, written, book, keys, routes, prices, clock, ids, snapshot.refresh, None, dry_runs)
