"""How fast events come in, through `ledger.ingest` as in the ledger's process: from memory, or out of a Valkey."""

import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.ledger.traffic import batches
from budget.connect import connect
from budget.readers import Readers
from budget.redis_store import RedisBudgetStore
from budget.texts import EVENT, event_text
from core.clock import SystemClock
from core.values import value
from ledger.ingest import BATCH, Counted, Events, Ingest
from ledger.ports import LedgerStore
from spendgate.ledger_process import StoreFeed
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


class ValkeyFeed(StoreFeed):
    """`ledger.ingest.EventFeed` on a stream that was written before. Copied is everything."""

    async def now(self) -> Counted:
        """It is not written to any more."""
        return Counted("ep_1", 0, 2**62)


async def intake(store: LedgerStore) -> Intake:
    """Take in so many batches; the time in which they are made does not count."""
    feed = MemoryFeed([])
    ingest = Ingest(store, feed, SystemClock())
    turns = []
    for feed.upcoming in batches(Stream(), BATCH * BATCHES, BATCH):
        turns.append(await _timed(ingest))
    return _intake(ingest, turns)


async def intake_from_valkey(store: LedgerStore, url: str) -> Intake:
    """The same events, from the stream where the live state has them."""
    live = RedisBudgetStore(connect(url), namespace="bench")
    client: Any = live.link.client
    for events in batches(Stream(), BATCH * BATCHES, BATCH):
        pipeline = client.pipeline(transaction=False)
        for _, fields in events:
            pipeline.xadd(live.key("events"), {EVENT: event_text(fields)})
        await pipeline.execute()
    ingest = Ingest(store, ValkeyFeed(live, Readers(live), "ledger:bench"), SystemClock())
    found = _intake(ingest, [await _timed(ingest) for _ in range(BATCHES)])
    await live.close()
    return found


async def _timed(ingest: Ingest) -> tuple[float, float]:
    """Seconds, and those of the processor, of one turn."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await ingest.turn()
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s


def _intake(ingest: Ingest, turns: Sequence[tuple[float, float]]) -> Intake:
    if ingest.ingested != BATCH * BATCHES:
        raise RuntimeError(f"only {ingest.ingested} events were taken in")
    walls_s, cpus_s = zip(*turns, strict=True)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Intake(BATCH * BATCHES / sum(walls_s), BATCH / statistics.median(walls_s), sum(cpus_s) / BATCHES, peak_mib)
