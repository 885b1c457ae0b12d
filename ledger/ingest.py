"""From the live state's stream into the ledger, once each.

1. The ledger says how far it is; the feed is placed there.
2. A batch is read, made into rows and appended, together with the position behind it, all or none.
3. Only then is it done with: the stream may let go of it.

Failure policy: a crash at any point is followed by 1. What was appended and not done is not read again; what was read
and not appended is. After the live state was rebuilt (a new epoch), everything in it is read again, and what the ledger
has is not added twice. A ledger or a store that is away is tried again; calls never wait for any of it.
"""

import asyncio
import contextlib
import gc
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from core.clock import Clock
from core.errors import SpendgateError
from core.values import value
from ledger.model import Position
from ledger.ports import LedgerStore
from ledger.records import batch_of

log = logging.getLogger("spendgate.ledger")

#: Events of a batch at most, which bounds memory.
BATCH = 10_000
_TURN_S = 0.2
_AFTER_FAILURE_S = 2.0
_COPY_TRIES = 100

Events = list[tuple[str, dict[str, str]]]


@value
class Counted:
    """The epoch of the events, how many were counted in it, and how many of them the live state's own copy has."""

    epoch: str
    events: int
    copied: int


class EventFeed(Protocol):
    """The live state's events. Every method raises a `SpendgateError` if it can't be reached."""

    async def now(self) -> Counted:
        """How far the live state is."""
        ...

    async def place(self, event_id: str) -> None:
        """Everything up to this event ("": nothing) is in the ledger; go on behind it."""
        ...

    async def read(self, count: int) -> Events:
        """The next events, oldest first."""
        ...

    async def refusals(self, after: str, count: int) -> Events:
        """Refusals behind one ("": from the first that is kept)."""
        ...

    async def done(self, event_ids: Sequence[str]) -> None:
        """These are in the ledger."""
        ...


class Moved(SpendgateError):
    """The live state was rebuilt while it was read."""


class NotCopied(SpendgateError):
    """The copy of the events stands still."""


@dataclass(slots=True)
class Ingest:
    """Reads one feed into one ledger.

    ingested, missed: how many events so far; missed ones had gone from the stream before they were read.
    lag: events of the feed that are not in the ledger, when it was last looked at.
    behind_ms: how old the newest event in the ledger is, if there is a lag.
    """

    store: LedgerStore
    feed: EventFeed
    clock: Clock
    ingested: int = 0
    missed: int = 0
    lag: int = 0
    behind_ms: int = 0
    _placed: bool = False
    _at: Position = field(default_factory=Position)
    _newest_ms: int = 0

    async def run(self) -> None:
        """Until cancelled."""
        failed = ""
        while True:
            try:
                more = await self.turn()
                failed = ""
            except (SpendgateError, OSError) as error:
                self._placed, more = False, False
                if str(error) != failed:
                    log.error("the ledger stands still: %s", error)
                failed = str(error)
            except Exception:  # whatever it is, calls go on, and it must be seen and tried again
                log.exception("the ledger stands still")
                self._placed, more, failed = False, False, "a bug"
            await asyncio.sleep(_AFTER_FAILURE_S if failed else 0 if more else _TURN_S)

    async def turn(self) -> bool:
        """One batch; whether there is more at once.

        Raises:
            SpendgateError, OSError: nothing was lost; `turn` begins again with the ledger's position.
        """
        with _no_search_for_cycles():
            return await self._turn()

    async def _turn(self) -> bool:
        epoch = (await self.feed.now()).epoch
        if not self._placed or epoch != self._at.epoch:
            self._at = await asyncio.to_thread(self.store.position)
            await self.feed.place(self._at.event_id if epoch == self._at.epoch else "")
            self._placed = True
        events = await self.feed.read(BATCH)
        refusals = await self.feed.refusals(self._at.refusal_id, BATCH)
        now = await self._copied(int(events[-1][1]["seq"]) if events else 0)
        if now.epoch != epoch:
            raise Moved("the live state was rebuilt")
        if events or refusals:
            await self._add(epoch, events, refusals)
        self.lag = max(0, now.events - self._at.sequence) if epoch == self._at.epoch else now.events
        self.behind_ms = max(0, self.clock.now_ms() - self._newest_ms) if self.lag and self._newest_ms else 0
        return max(len(events), len(refusals)) == BATCH

    async def _copied(self, sequence: int) -> Counted:
        """Wait until the copy that a lost store is rebuilt from has an event: the ledger must never know of money that
        a rebuilt store does not.
        """
        for _ in range(_COPY_TRIES):
            now = await self.feed.now()
            if now.copied >= sequence:
                return now
            await asyncio.sleep(_TURN_S / 4)
        raise NotCopied("the copy of the live state's events is behind; is there a process that keeps one?")

    async def _add(self, epoch: str, events: Events, refusals: Events) -> None:
        if events:
            self._watch_for_gaps(epoch, int(events[0][1]["seq"]))
        batch = await asyncio.to_thread(batch_of, events, refusals, self._at, epoch, self.clock.now_ms())
        self.ingested += await asyncio.to_thread(self.store.append, batch)
        self._at = batch.position
        if events:
            self._newest_ms = int(events[-1][1]["at_ms"])
            await self.feed.done([event_id for event_id, _ in events])

    def _watch_for_gaps(self, epoch: str, first: int) -> None:
        expected = self._at.sequence + 1 if epoch == self._at.epoch else first
        if first > expected:
            self.missed += first - expected
            log.error("%d events had gone from the stream before the ledger had them", first - expected)


@contextlib.contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """A batch is hundreds of thousands of objects without cycles, all gone at the end of its turn; to look for cycles
    among them takes a third of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
