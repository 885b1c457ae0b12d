"""What this surface stands on; built by the process, passed in once."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from budget.book import BudgetBook
from budget.ports import BudgetStore, Documents
from core.clock import Clock
from core.ids import Ids
from core.keys import KeyRing
from dashboard.what_if import DryRuns, Replays
from ledger.ports import LedgerReader
from routing.model import Routes
from telemetry.prices import PriceBook


class LiveState(BudgetStore, Protocol):
    """A budget store whose event stream can be read."""

    async def events(self, after: str = "-", count: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Events from `after` on (itself included), oldest first: (id, fields)."""
        ...


@dataclass
class Deps:
    """Everything that the routes need.

    book, keys: this worker's copies of the snapshot; read, never written here.
    refresh: reads the snapshot again into `book` and `keys`, so that a writer sees its own change.
    ledger: what was; None where it is switched off.
    dry_runs: tries calls without making them; None where there is no gateway.
    replays: replays the past; None where the ledger is switched off.
    stopping: set when the process drains; what is told live ends then.
    """

    store: LiveState
    documents: Documents
    book: BudgetBook
    keys: KeyRing
    routes: Routes
    prices: PriceBook
    clock: Clock
    ids: Ids
    refresh: Callable[[], Awaitable[None]]
    ledger: LedgerReader | None = None
    dry_runs: DryRuns | None = None
    replays: Replays | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
