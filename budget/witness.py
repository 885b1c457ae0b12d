"""What one worker can testify to a store that was rebuilt: the holds of its running calls, and what it settled so
lately that no copy has it.

A rebuilt store opens a moment after its books are whole; in that time every worker that lives has said what it knows.
"""

import logging
from collections import deque
from dataclasses import dataclass, field

from budget.model import Resolution, Settlement
from budget.ports import BudgetStore, OpenHold
from core.errors import StoreLost

log = logging.getLogger("spendgate.budget")

_MOST_SETTLED = 20_000


@dataclass(slots=True)
class Witness:
    """One worker's memory beside the store's.

    open_holds: of the calls that run.
    settled: with the store's count of events afterwards; forgotten once there is a copy elsewhere.
    lost: why the store is not to be trusted now; None: it is.
    """

    store: BudgetStore
    lease_ms: int
    open_holds: dict[str, OpenHold] = field(default_factory=dict)
    settled: deque[tuple[int, Resolution]] = field(default_factory=lambda: deque(maxlen=_MOST_SETTLED))
    lost: str | None = None

    def check(self) -> None:
        """Raises `StoreLost` while the store is not to be trusted."""
        if self.lost:
            raise StoreLost(self.lost)

    def saw(self, resolution: Resolution, settlement: Settlement) -> None:
        """Remember what was settled."""
        if settlement.applied:
            self.settled.append((settlement.sequence, resolution))

    async def look(self) -> None:
        """See whether the store still has its memory; if it was rebuilt, tell it what is known here.

        Raises:
            StoreUnavailable: it does not answer.
        """
        found = await self.store.look()
        mine = self.store.epoch
        if found.epoch is None or found.doubt:
            self._doubt(found.doubt or "it has no books")
        elif mine is None:
            self.store.join(found.epoch, found.sequence)
            self.lost = None
        elif found.epoch == mine:
            self.store.join(mine, found.sequence)  # what others have counted is known here too
            self.lost = None
            while self.settled and self.settled[0][0] <= found.archived:
                self.settled.popleft()
        elif found.continues(mine):
            self._doubt("it was rebuilt, and this worker is catching up")
            await self._testify(found.epoch, found.sequence)
        else:
            self._doubt("its books are not those that this worker began with")

    def _doubt(self, why: str) -> None:
        if self.lost != why:
            log.error("calls are refused: the store's memory can't be trusted: %s", why)
        self.lost = why

    async def _testify(self, epoch: str, sequence: int) -> None:
        """All of it may be known there already; then it has no effect. If this fails, it is done again."""
        mine, known = self.store.epoch or "", tuple(self.settled)
        self.store.join(epoch, sequence)
        try:
            for hold in tuple(self.open_holds.values()):
                await self.store.restore(hold, self.lease_ms)
            for _, resolution in known:
                await self.store.resolve(resolution)
        except BaseException:
            self.store.join(mine, sequence)  # not caught up: the next look tries again
            raise
        for _ in known:
            self.settled.popleft()
        self.lost = None
        log.error("the store was rebuilt and this worker has caught up: calls are admitted")
