"""A worker process: the real flow on a line that loses things, with a clock and a disk of its own."""

import asyncio
import contextlib
import contextvars
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from budget.book import BudgetBook
from budget.journal import Journal
from budget.model import Resolution
from budget.service import BudgetService
from core.errors import StoreUnavailable
from core.keys import KeyRing
from gateway.auth import Authenticator
from gateway.chat import ChatFlow
from gateway.hot import HotRoutes
from gateway.http import Limits
from gateway.planner import Planner
from routing.health import Health
from spendgate.snapshot import Snapshot
from spendgate.tasks import stop_all
from tests.simulation.catalog import KEY, PRICES, ROUTES, SMALLEST_CALL_NANO
from tests.simulation.line import Line
from tests.simulation.loop import OWNER, Owner, SimLoop
from tests.simulation.provider import Provider, SimUpstreams

LEASE_MS = 3_000
CALL_TIMEOUT_S = 8.0
DRAIN_S = 2.0
LAST_SETTLEMENTS_S = 3.0


class SimClock:
    """A machine's clock: that of the loop, and off by `skew_ms`."""

    def __init__(self, loop: SimLoop, base_ms: int, skew_ms: int = 0) -> None:
        self._loop = loop
        self._base_ms = base_ms
        self.skew_ms = skew_ms

    def now_ms(self) -> int:
        return self._base_ms + self.skew_ms + int(self._loop.time() * 1000)

    def monotonic_s(self) -> float:
        return self._loop.time()


class CountedIds:
    """Ids in the order in which they are made, in the shape of real ones."""

    def __init__(self) -> None:
        self._made = 0

    def new(self, prefix: str) -> str:
        self._made += 1
        return f"{prefix}_{0x8000000000000000 + self._made:032x}"


class SimJournal(Journal):
    """The real file; what its process does after its end reaches no file that got the same number since."""

    ended = False

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, name)
        self.kept: list[Resolution] = []  # what it may be asked for

    def add(self, resolution: Resolution) -> bool:
        if self.ended or not super().add(resolution):
            return False
        self.kept.append(resolution)
        return True

    def clear(self) -> None:
        if not self.ended:
            super().clear()

    def close(self) -> None:
        self.ended = True
        super().close()

    def drop(self, torn_bytes: int) -> None:
        """The process is gone; its last write may have been cut."""
        if not self.ended:
            self.ended = True
            if torn_bytes and self._bytes:
                self.kept.pop()
                os.ftruncate(self._file, max(0, self._bytes - torn_bytes))
            os.close(self._file)


class SimWorker(Owner):
    """One life of a worker: from its start to its end. The next life is another."""

    def __init__(
        self, name: str, loop: SimLoop, clock: SimClock, ids: CountedIds, line: Line, provider: Provider, disk: Path
    ) -> None:
        super().__init__()
        self.name = name
        self.loop = loop
        self.clock = clock
        self.line = line
        self.draining = False
        self.crashed = False
        self.torn_bytes = 0
        self.requests: list[asyncio.Task[Any]] = []
        self.spawned: list[asyncio.Task[Any]] = []
        book, keys = BudgetBook(smallest_call_nano=SMALLEST_CALL_NANO), KeyRing([KEY])
        self.snapshot = Snapshot(line, book, keys, PRICES)
        self.journal = SimJournal(disk, ids.new("wrk"))
        self.budgets = BudgetService(
            store=line,
            book=book,
            clock=clock,
            ids=ids,
            refresh=self.snapshot.refresh,
            owner=name,
            lease_ms=LEASE_MS,
            journal=self.journal,
        )
        self.budgets.resume()
        planner = Planner(ROUTES, PRICES, book, Health(clock))
        flow = ChatFlow(planner, self.budgets, SimUpstreams(provider), clock, CALL_TIMEOUT_S)
        callers = Authenticator(keys, clock, self.snapshot.refresh)
        self.hot = HotRoutes(flow, callers, clock, ids, Limits(), line, self.why_not_ready)
        self._background = [self.spawn(self._load()), self.spawn(self.budgets.run())]

    def why_not_ready(self) -> str | None:
        return "shutting down" if self.draining else self.snapshot.why_not_ready()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run something in this process."""
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        task: asyncio.Task[Any] = self.loop.create_task(coroutine, context=context)
        self.spawned.append(task)
        return task

    async def _load(self) -> None:
        while not self.snapshot.loaded:
            with contextlib.suppress(StoreUnavailable):
                await self.snapshot.refresh()
            await asyncio.sleep(0.25)

    def die(self) -> None:
        """Kill -9: nothing of it runs on; its files stay, their locks go."""
        if not self.dead:
            self.crashed = True
            super().die()
            self.journal.drop(self.torn_bytes)

    def retire(self) -> None:
        """It is not needed any more, and has nothing left to do."""
        super().die()
        self.journal.drop(0)

    async def drain(self) -> None:
        """SIGTERM, in the order in which uvicorn and the worker go about it."""
        self.draining = True
        running = [t for t in self.requests if not t.done()]
        if running:
            await asyncio.wait(running, timeout=DRAIN_S)
        for task in running:
            task.cancel()
        await stop_all(self._background)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.hot.until_idle(), LAST_SETTLEMENTS_S)
        await self.budgets.stop()
        self.journal.close()
        super().die()  # by the signal, which uvicorn raises again at its end
