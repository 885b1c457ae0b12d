"""Puts the parts of a worker together. Called once in each worker process, inside its event loop."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI

from budget.book import BudgetBook
from budget.connect import connect
from budget.copied import CopiedDocuments
from budget.journal import Journal
from budget.link import Acks
from budget.redis_store import RedisBudgetStore
from budget.service import BudgetService
from core.clock import SystemClock
from core.errors import StoreUnavailable
from core.ids import RandomIds
from core.keys import KeyRing
from dashboard.app import create_router as create_dashboard
from dashboard.deps import Deps
from dashboard.errors import install_errors
from dashboard.pages import router as create_pages
from gateway.app import ASGI, create_app, create_router
from gateway.auth import Authenticator
from gateway.chat import ChatFlow, DrainLimits
from gateway.dry_run import DryRuns
from gateway.hot import HotRoutes
from gateway.http import Limits
from gateway.idempotency import RedisAnswerMemory
from gateway.planner import Planner
from gateway.webhook import HeliconeWebhook
from routing.adapters.registry import Upstreams
from routing.health import Health
from spendgate import __version__
from spendgate.catalog import load_catalog, smallest_call_nano
from spendgate.ledger_client import LedgerClient
from spendgate.open_ledger import OFF
from spendgate.replaying import ReplayProcess
from spendgate.settings import Role, Settings
from spendgate.snapshot import Snapshot
from spendgate.tasks import stop_all
from telemetry import metrics

log = logging.getLogger("spendgate")

_LAST_SETTLEMENTS_S = 3.0
_PUBLISH_EVERY_S = 1.0
_COUNTERS = (metrics.overages, metrics.overage_nanodollars, metrics.expired_holds)


@dataclass(slots=True)
class Worker:
    """The parts of one worker.

    hot: the routes that carry calls; None in a control process.
    draining: set at SIGTERM; no new calls from then on, and nothing more is told live.
    """

    settings: Settings
    store: RedisBudgetStore
    snapshot: Snapshot
    budgets: BudgetService
    upstreams: Upstreams
    health: Health
    hot: HotRoutes | None = None
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    def drain(self) -> None:
        """Admit no new calls from now on."""
        self.draining.set()

    def why_not_ready(self) -> str | None:
        """Why calls can't be admitted; None while they can."""
        if self.draining.is_set():
            return "this worker is shutting down"
        lost = self.budgets.witness.lost
        return f"the store's memory can't be trusted: {lost}" if lost else self.snapshot.why_not_ready()

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """What `/readyz` says."""
        reason = self.why_not_ready()
        try:
            await self.store.ping()
            store = "ok"
        except StoreUnavailable as error:
            store, reason = "away", reason or error.message
        circuits = {name: report.as_json() for name, report in self.health.report().items()}
        return reason is None, {
            "ready": reason is None,
            "reason": reason,
            "store": store,
            "openHolds": len(self.budgets.open_holds),
            "waitingSettlements": len(self.budgets.waiting),
            "overages": self.budgets.overages,
            "circuits": circuits,
        }

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Background work while the worker serves; settles what it can at the end."""
        with contextlib.suppress(StoreUnavailable):
            await self.budgets.witness.look()
            await self.snapshot.refresh()
        jobs = (self.snapshot.watch(), self.budgets.run(), publish(self.budgets))
        tasks = [asyncio.create_task(job) for job in jobs]
        for task in tasks:
            task.add_done_callback(_stop_if_failed)
        try:
            yield
        finally:
            await stop_all(tasks)
            await self._await_last_settlements()
            left = await self.budgets.stop()
            if left:
                log.error("%d settlements have not reached the store; the next worker will bring them", left)
            if self.budgets.journal:
                self.budgets.journal.close()
            await self.upstreams.close()
            await self.store.close()

    async def _await_last_settlements(self) -> None:
        """Calls that the drain's end cut off still settle; store and journal stay open for them."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SETTLEMENTS_S):
                if self.hot is not None:
                    await self.hot.until_idle()
                await self.budgets.all_ended()


async def publish(budgets: BudgetService) -> None:
    """Keep this worker's numbers in the metrics up to date, until cancelled."""
    told = (0, 0, 0)
    while True:
        metrics.open_holds.set(len(budgets.open_holds))
        metrics.waiting_settlements.set(len(budgets.waiting))
        metrics.store_lost.set(1 if budgets.witness.lost else 0)
        now = (budgets.overages, budgets.overage_nano, budgets.expired)
        for counter, new, old in zip(_COUNTERS, now, told, strict=True):
            counter.inc(new - old)
        told = now
        await asyncio.sleep(_PUBLISH_EVERY_S)


def _stop_if_failed(task: "asyncio.Task[None]") -> None:
    """Without its background work a worker would lose its leases: it stops, and the supervisor starts another."""
    if not task.cancelled() and task.exception():
        log.critical("the worker's background work failed and the worker stops", exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


def build(settings: Settings, redis_url: str) -> tuple[Worker, ASGI]:
    """A worker and its ASGI application."""
    clock = SystemClock()
    ids = RandomIds(clock)
    routes, prices = load_catalog(settings)
    book = BudgetBook(smallest_call_nano=smallest_call_nano(routes, prices, clock.now_ms()))
    keys = KeyRing()
    client = connect(redis_url)
    acks = Acks(settings.wait_replicas, settings.wait_fsync, settings.wait_ms)
    store = RedisBudgetStore(client, namespace=settings.namespace, keep_ms=settings.keep_holds_s * 1000, acks=acks)
    snapshot = Snapshot(store, book, keys, prices)
    budgets = BudgetService(
        store=store,
        book=book,
        clock=clock,
        ids=ids,
        refresh=snapshot.refresh,
        owner=f"{os.uname().nodename}:{os.getpid()}:{ids.new('wrk')}",
        lease_ms=round(settings.lease_s * 1000),
        journal=Journal(settings.data_dir / "journal", ids.new("wrk")),
    )
    budgets.resume()
    upstreams, health = Upstreams(routes, clock), Health(clock)
    worker = Worker(settings, store, snapshot, budgets, upstreams, health)
    planner = Planner(routes, prices, book, health)
    drain = DrainLimits(settings.abort_drain_s, settings.abort_drain_bytes)
    flow = ChatFlow(planner, budgets, upstreams, clock, settings.call_timeout_s, drain, settings.stream_timeout_s)
    limits = Limits(body_bytes=settings.max_body_bytes, body_s=settings.client_timeout_s)
    running_ms = round((settings.call_timeout_s + settings.lease_s) * 1000)
    answers = RedisAnswerMemory(client, namespace=settings.namespace, running_ms=running_ms)
    callers = Authenticator(keys, clock, snapshot.refresh)
    hot = HotRoutes(flow, callers, clock, ids, limits, answers, worker.why_not_ready)
    webhook = HeliconeWebhook(
        budgets,
        prices,
        clock,
        settings.helicone_webhook_secret,
        accept_unsigned=settings.on_loopback,
        default_agent=settings.webhook_agent,
    )
    rest = _fastapi(worker.running)
    rest.include_router(create_router(hot, webhook, routes, worker.readiness))
    if settings.role is not Role.GATEWAY:
        ledger = LedgerClient(settings.data_dir, settings.namespace) if settings.ledger != OFF else None
        dry_runs = DryRuns(flow, keys, clock, snapshot.refresh)
        replays = ReplayProcess(routes, prices) if ledger else None
        documents = CopiedDocuments(store)
        reading = (store, documents, book, keys, routes, prices, clock, ids, snapshot.refresh)
        deps = Deps(*reading, ledger, dry_runs, replays, worker.draining)
        rest.include_router(create_dashboard(deps))
        rest.include_router(create_pages(deps))
    if settings.role is Role.CONTROL:
        return worker, rest
    worker.hot = hot
    return worker, create_app(hot, rest)


def _fastapi(running: Callable[[], Any]) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with running():
            yield

    app = FastAPI(
        title="Spendgate",
        version=__version__,
        description="Keeps the spend of AI agents inside its budgets.",
        lifespan=lifespan,
    )
    install_errors(app)
    return app
