"""Verifies the books on a timer, while calls go on: the checks of `spendgate verify`, as metrics and errors in the log.

Failure policy: a store that is away or being rebuilt is asked again at the next turn; drift is said once for each truth
that does not hold, and stays in the metrics.
"""

import asyncio
import logging
from dataclasses import dataclass, field

from budget.redis_store import RedisBudgetStore
from budget.verify import Fold, verify
from core.clock import Clock
from core.errors import StoreUnavailable
from telemetry import metrics

log = logging.getLogger("spendgate")

_FIRST_AFTER_S = 5.0


@dataclass(slots=True)
class Auditor:
    """Looks at one store's books every so often.

    fold: of the events of `epoch` that have been read.
    """

    store: RedisBudgetStore
    clock: Clock
    every_s: float
    fold: Fold = field(default_factory=Fold)
    epoch: str | None = None
    said: set[tuple[str, str]] = field(default_factory=set)

    async def run(self) -> None:
        """Verify until cancelled."""
        await asyncio.sleep(min(_FIRST_AFTER_S, self.every_s))
        while True:
            try:
                await self.look()
            except StoreUnavailable as error:
                log.warning("the books can't be verified now: %s", error.message)
            except Exception:  # whatever it is, calls go on, and it must be seen and tried again
                log.exception("the verification of the books failed")
            await asyncio.sleep(self.every_s)

    async def look(self) -> None:
        """Verify once.

        Raises:
            StoreUnavailable: they can't be read, or are not to be trusted.
        """
        await self.store.trust()
        found = await self.store.look()
        if found.epoch != self.epoch:  # rebuilt: its events were written anew
            self.epoch, self.fold = found.epoch, Fold()
        result = await verify(self.store, self.fold)
        for drift in result.drift:
            if (drift.rule, drift.subject) not in self.said:
                self.said.add((drift.rule, drift.subject))
                log.error(
                    "the books drift: %s: %s: expected %d, found %d",
                    drift.subject,
                    drift.rule,
                    drift.expected,
                    drift.found,
                )
        metrics.verify_runs.inc()
        metrics.verify_drift.set(len(result.drift))
        metrics.verified_at.set(self.clock.now_ms() / 1000)
