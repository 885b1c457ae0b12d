"""A store that loses requests or replies when told to."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from budget.memory_store import MemoryBudgetStore
from budget.model import Hold, HoldStatus, Refusal, ReserveRequest, Resolution, Settlement, StaleSnapshot
from budget.ports import AccountBalance, Continuity, DueHold, FoundHold, OpenHold
from core.errors import StoreUnavailable

T = TypeVar("T")


@dataclass(slots=True)
class FlakyStore:
    """`budget.ports.BudgetStore` over a memory store.

    faults: what happens to the next calls of `reserve` and `resolve`, one entry per call:
        ``request`` it never arrives; ``reply`` it is done but the answer is lost; ``late`` it arrives when
        `deliver` is called; ``hang`` it is done and the answer never comes; ``stuck`` it stays on
        the line; ``ok``.
    away: every call fails.
    """

    inner: MemoryBudgetStore
    faults: list[str] = field(default_factory=list)
    away: bool = False
    on_their_way: list[Callable[[], Awaitable[object]]] = field(default_factory=list)

    async def reserve(self, request: ReserveRequest) -> Hold | Refusal | StaleSnapshot:
        """As the memory store, but for the next fault."""
        return await self._through(lambda: self.inner.reserve(request))

    async def resolve(self, resolution: Resolution) -> Settlement:
        """As the memory store, but for the next fault."""
        return await self._through(lambda: self.inner.resolve(resolution))

    async def _through(self, call: Callable[[], Awaitable[T]]) -> T:
        fault = self.faults.pop(0) if self.faults else "ok"
        await asyncio.sleep(0)  # others run while this is on the line
        if self.away or fault == "request":
            raise StoreUnavailable("away")
        if fault == "late":
            self.on_their_way.append(call)
            raise StoreUnavailable("no answer in time")
        if fault == "stuck":
            await asyncio.Event().wait()
        answer = await call()
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "reply":
            raise StoreUnavailable("the answer was lost")
        return answer

    async def deliver(self) -> None:
        """What was on its way arrives now; nobody waits for the answers."""
        while self.on_their_way:
            await self.on_their_way.pop(0)()

    @property
    def epoch(self) -> str | None:
        """As the memory store."""
        return self.inner.epoch

    async def look(self) -> Continuity:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.look()

    def join(self, epoch: str, sequence: int) -> None:
        """As the memory store."""
        self.inner.join(epoch, sequence)

    async def restore(self, hold: OpenHold, lease_ms: int) -> HoldStatus:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.restore(hold, lease_ms)

    async def extend(self, hold_ids: Sequence[str], lease_ms: int) -> list[str]:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.extend(hold_ids, lease_ms)

    async def find(self, hold_id: str) -> FoundHold | None:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.find(hold_id)

    async def due(self, limit: int) -> list[DueHold]:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.due(limit)

    async def balances(self, account_ids: Sequence[str]) -> list[AccountBalance]:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.balances(account_ids)

    async def current_accounts(self, now_ms: int) -> list[str]:
        """As the memory store, unless away."""
        self._check()
        return await self.inner.current_accounts(now_ms)

    def _check(self) -> None:
        if self.away:
            raise StoreUnavailable("away")
