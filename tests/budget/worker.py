"""A worker's service with everything around it in sight, on a clock that a test moves."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from budget.book import BudgetBook
from budget.memory_store import MemoryBudgetStore
from budget.model import Basis, Budget, Candidate, HoldStatus
from budget.service import Admission, BudgetService, Plan, Refused
from core.ids import RandomIds
from core.scope import Scope
from tests.budget.builders import fixed
from tests.budget.flaky import FlakyStore

BOT, TEAM = Scope("agent", "bot"), Scope("team", "ml")
ID = "b:total:bot"


@dataclass
class HandClock:
    """Time that moves when a test says so."""

    at_ms: int = 1_795_435_200_000

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000


@dataclass
class Worker:
    """A service with everything around it in sight."""

    clock: HandClock = field(default_factory=HandClock)
    refreshed: int = 0

    def __post_init__(self) -> None:
        self.memory = MemoryBudgetStore(self.clock.now_ms)
        self.line = FlakyStore(self.memory)
        self.book = BudgetBook([Budget("b", BOT, 100, cadence="total")])
        self.service = BudgetService(
            self.line, self.book, self.clock, RandomIds(self.clock), self.refresh, "w1", lease_ms=9_000
        )

    async def refresh(self) -> None:
        self.refreshed += 1
        self.book.version = self.memory.version

    async def try_hold(self, hold_id: str, *candidates: Candidate) -> Admission | Refused:
        def plan(now_ms: int) -> Plan:
            accounts = self.book.accounts([BOT, TEAM], now_ms)
            return Plan(accounts, tuple(a.id for a in accounts), candidates)

        return await self.service.reserve(plan, hold_id=hold_id, detail=b'{"x":1}')

    async def hold(self, hold_id: str, amount: int = 30) -> Admission:
        admission = await self.try_hold(hold_id, fixed(amount, "1" * len(self.book.all())))
        assert isinstance(admission, Admission)
        return admission

    async def settle(self, admission: Admission, cost: int) -> None:
        self.service.settle(admission, cost, Basis.EXACT, b"{}")
        await self.service.all_ended()

    async def balance(self) -> tuple[int, int]:
        [row] = await self.memory.balances([ID])
        return row.spent_nano, row.held_nano

    async def status(self, hold_id: str) -> HoldStatus:
        found = await self.memory.find(hold_id)
        return found.status if found else HoldStatus.NONE

    def kinds(self) -> list[str]:
        return [e["type"] for e in self.memory.log if e["type"] not in ("state", "hold", "terms")]


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until it is so."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)
