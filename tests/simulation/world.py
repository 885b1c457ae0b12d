"""One seed: a small world of workers, clients, a store, a provider, and what goes wrong there. Then it heals, and
every promise is checked (`promises.py`).
"""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from budget.codec import BUDGET_KIND, dump_budget
from budget.memory_store import MemoryBudgetStore
from budget.model import Basis, Budget, HoldStatus
from core.errors import StoreUnavailable
from tests.simulation.books import Books, insist
from tests.simulation.catalog import BOT, TEAM
from tests.simulation.client import Client, Wish, wish_of
from tests.simulation.climate import SKEWS_MS, budgets_of, changed, climate_of
from tests.simulation.line import Answers, Line, Weather
from tests.simulation.loop import SimLoop, run_now
from tests.simulation.provider import Moods, Provider
from tests.simulation.worker import CALL_TIMEOUT_S, LEASE_MS, CountedIds, SimClock, SimWorker

_DISK = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


class World:
    """A seed's world. `run` it, and `close` it whatever happens.

    trace: the story, each entry with its time and who it happened to. seen: what the story reached, and how often.
    """

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.climate = climate_of(self.rng)
        self.loop = SimLoop()  # type: ignore[abstract] # what nobody calls is not there
        self.store_clock = SimClock(self.loop, self.climate.base_ms)
        self.books = Books(MemoryBudgetStore(self.store_clock.now_ms))
        self.weather = Weather()
        self.provider = Provider(self.loop, self.books, Random(seed + 1), self.climate.moods)
        self.answers = Answers(self.loop, CALL_TIMEOUT_S + LEASE_MS / 1000)
        self.ids = CountedIds()
        self.line_rng = Random(seed + 2)
        self.disk = Path(tempfile.mkdtemp(prefix="sim-", dir=_DISK))
        self.budgets: dict[str, Budget] = {}
        self.workers: list[SimWorker] = []
        self.past: list[SimWorker] = []
        self.clients: list[Client] = []
        self.trace: list[tuple[Any, ...]] = []
        self.seen = self.provider.seen

    def close(self) -> None:
        """Forget it all."""
        for worker in (*self.workers, *self.past):
            worker.die()
        self.loop.close()
        shutil.rmtree(self.disk, ignore_errors=True)

    def play(self) -> None:
        """The story up to its happy end: everything works again and has come to rest.

        Raises:
            Broken: a promise was not kept meanwhile.
        """
        for budget in budgets_of(self.rng):
            self.put(budget)
        for number in range(self.rng.randint(2, 3)):
            self.workers.append(self.start(f"w{number}", self.rng.choice(SKEWS_MS[:5])))
        self.wait(0.5)
        self.weather.fault = self.climate.faults
        for _ in range(self.rng.randint(10, 30)):
            self._act()
            self.wait(self.rng.choice((0.0, 0.01, 0.05, 0.2, 0.5, 1.0)))
        self._heal()
        self._take_stock()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.loop.run_until(self.is_broken, limit_s=seconds)
        if self.books.broken:
            raise self.books.broken[0]

    def is_broken(self) -> bool:
        """Whether a promise was broken where the code under test may have swallowed it."""
        return bool(self.books.broken)

    def start(self, name: str, skew_ms: int) -> SimWorker:
        """A new worker process."""
        line = Line(name, self.loop, self.books, self.weather, self.line_rng, self.answers, self.trace)
        clock = SimClock(self.loop, self.climate.base_ms, skew_ms)
        return SimWorker(name, self.loop, clock, self.ids, line, self.provider, self.disk)

    def put(self, budget: Budget) -> None:
        """Create or change a budget."""
        self.budgets[budget.id] = budget
        self.tell("operator", budget)
        run_now(self.books.memory.put(BUDGET_KIND, budget.id, dump_budget(budget)))

    def tell(self, who: str, *what: object) -> None:
        """A line of the story."""
        self.trace.append((self.loop.time(), who, *what))

    # What happens

    def _act(self) -> None:
        climate, rng = self.climate, self.rng
        others: list[tuple[object, Callable[[], None]]] = [
            (climate.crashes, self._crash),
            (climate.crashes, self._restart),
            (climate.outages, self._outage),
            (climate.changes, self._change),
            (climate.cancels, self._cancel),
            (climate.drains, self._drain),
            (climate.clocks, self._jump),
            (climate.foreign, self._foreign),
        ]
        possible = [act for may, act in others if may]
        if possible and rng.random() < 0.35:
            rng.choice(possible)()
        elif rng.random() < 0.15:
            self._retry()
        else:
            self.ask(wish_of(rng))

    def ask(self, wish: Wish) -> Client:
        """A client asks one of the workers."""
        living = [w for w in self.workers if not w.dead]
        client = Client(self.loop, wish)
        if living:
            worker = self.rng.choice(living)
            self.tell(worker.name, "is asked", wish)
            self.clients.append(client)
            client.ask(worker)
        return client

    def _retry(self) -> None:
        """A client asks again under its Idempotency-Key, whatever became of the first."""
        before = [c for c in self.clients if c.wish.idempotency_key]
        if before:
            self.seen["asked again"] += 1
            self.ask(replace(self.rng.choice(before).wish, leave_after_s=None))

    def _crash(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.torn_bytes = self.rng.choice((0, 0, 0, 7))
        worker.fuse = self.rng.randint(0, 60)
        self.tell(worker.name, "will die after steps", worker.fuse)

    def _restart(self) -> None:
        for index, worker in enumerate(self.workers):
            if worker.dead:
                self.tell(worker.name, "starts again")
                self.seen["restart"] += 1
                self.past.append(worker)
                self.workers[index] = self.start(worker.name, worker.clock.skew_ms)
                self.seen["journal taken over"] += bool(self.workers[index].budgets.waiting)

    def _outage(self) -> None:
        self.weather.away_until_s = self.loop.time() + self.rng.choice((0.1, 1.0, 3.0, 8.0))
        self.seen["outage"] += 1
        self.tell("store", "is away until", self.weather.away_until_s)

    def _cancel(self) -> None:
        running = [(w, t) for w in self.workers for t in w.requests if not t.done() and not w.dead]
        if running:
            worker, task = self.rng.choice(running)
            self.tell(worker.name, "cancels its request", worker.requests.index(task))
            self.seen["cancel"] += 1
            task.cancel()

    def _drain(self) -> None:
        worker = self.rng.choice(self.workers)
        if not worker.dead and not worker.draining:
            self.tell(worker.name, "drains")
            self.seen["drain"] += 1
            worker.spawn(worker.drain())

    def _jump(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.clock.skew_ms = self.rng.choice(SKEWS_MS)
        self.seen["clock jump"] += 1
        self.tell(worker.name, "has a clock off by ms", worker.clock.skew_ms)

    def _change(self) -> None:
        budget = self.budgets[self.rng.choice(sorted(self.budgets))]
        self.put(changed(budget, self.rng, self.store_clock.now_ms()))
        self.seen["change"] += 1

    def _foreign(self) -> None:
        """A webhook: about a call of ours, or of somebody else; often it comes again."""
        worker = self.rng.choice(self.workers)
        if worker.dead:
            return
        holds = self.books.memory.holds
        done = [i for i, s in self.provider.sent.items() if s.said or holds[i].status is HoldStatus.EXPIRED]
        if done and self.rng.random() < 0.6:
            attempt_id = self.rng.choice(done)
            cost_nano = self.provider.sent[attempt_id].bill_nano
            self.tell(worker.name, "hears of a cost", attempt_id, cost_nano)
            worker.spawn(_quietly(lambda: worker.budgets.true_up(attempt_id, cost_nano, b"{}")))
        else:
            name, cost_nano = f"ext_{self.rng.randint(0, 3)}", self.rng.randint(0, 500)
            self.tell(worker.name, "hears of a foreign cost", name, cost_nano)
            worker.spawn(_quietly(lambda: worker.budgets.post(name, (BOT, TEAM), cost_nano, Basis.WEBHOOK, b"{}")))

    # How it ends

    def _heal(self) -> None:
        self.tell("world", "heals")
        self.weather.fault, self.weather.away_until_s = 0.0, -1.0
        self.provider.moods = Moods(slow_s=0.05)
        for worker in self.workers:
            worker.fuse = None
            worker.clock.skew_ms = 0
        self._restart()
        ended = self.loop.run_until(self._all_answered, limit_s=120)
        self.wait(5.0)  # what was late or sent twice has come
        self._restart()  # of those who drained
        insist(ended, "every request ends", [c.wish for c in self.clients if not c.complete])
        self.loop.run_until(self._at_rest, limit_s=3 * LEASE_MS / 1000)
        self.wait(0.0)

    def _all_answered(self) -> bool:
        return self.is_broken() or all(t.done() for w in self.workers if not w.dead for t in w.requests)

    def _at_rest(self) -> bool:
        holds = self.books.memory.holds.values()
        return not any(h.status is HoldStatus.HELD for h in holds) and not any(w.budgets.waiting for w in self.workers)

    def _take_stock(self) -> None:
        """Count what was reached, so that a test can insist that everything is."""
        seen: Counter[str] = self.seen
        for entry in self.trace:
            if entry[-1] and len(entry) == 5 and isinstance(entry[-1], str):
                seen[f"message {entry[-1]}"] += 1
        for event in self.books.memory.log:
            seen[f"event {event['type']}"] += 1
            if event.get("before") == "expired":
                seen[f"{event['type']} after expiry"] += 1
            seen["overage"] += event.get("overage_nano", "0") != "0"
        for client in self.clients:
            seen[f"status {client.status}"] += 1
            seen["client left"] += client.gone_s is not None and not client.complete
            seen["replayed answer"] += client.replayed
        seen["crash"] += sum(1 for w in self.past if w.dead and not w.draining)


async def _quietly(work: Callable[[], Awaitable[object]]) -> None:
    try:
        await work()
    except (StoreUnavailable, asyncio.CancelledError):
        return
