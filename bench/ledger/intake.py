"""How fast events come in: through `ledger.ingest`, as in the ledger's process, from a stream in memory."""

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from bench.ledger.traffic import batches
from core.clock import SystemClock
from core.values import value
from ledger.ingest import BATCH, Counted, Events, Ingest
from ledger.ports import LedgerStore
from tests.ledger.events import Stream

BATCHES = 30


@value
class Intake:
    """events_s: on average, and in the median batch. cpu_s: of the process, a batch. peak_mib: of the process."""

    events_s: float
    median_events_s: float
    cpu_s: float
    peak_mib: float


@dataclass(slots=True)
class MemoryFeed:
    """`ledger.ingest.EventFeed` on one batch at a time."""

    upcoming: Events

    async def now(self) -> Counted:
        """Copied is everything."""
        return Counted("ep_1", 0, 2**62)

    async def place(self, event_id: str) -> None:
        """A stream of its own for each ledger needs no place."""

    async def read(self, count: int) -> Events:
        """The batch that was made."""
        return self.upcoming

    async def refusals(self, after: str, count: int) -> Events:
        """None."""
        return []

    async def done(self, event_ids: Sequence[str]) -> None:
        """They are not kept."""


async def intake(store: LedgerStore) -> Intake:
    """Take in so many batches; the time in which they are made does not count."""
    feed = MemoryFeed([])
    ingest = Ingest(store, feed, SystemClock())
    walls_s, cpu_s = [], 0.0
    for feed.upcoming in batches(Stream(), BATCH * BATCHES, BATCH):
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        await ingest.turn()
        walls_s.append(time.perf_counter() - began_s)
        cpu_s += time.process_time() - began_cpu_s
    if ingest.ingested != BATCH * BATCHES:
        raise RuntimeError(f"only {ingest.ingested} events were taken in")
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Intake(BATCH * BATCHES / sum(walls_s), BATCH / statistics.median(walls_s), cpu_s / BATCHES, peak_mib)
