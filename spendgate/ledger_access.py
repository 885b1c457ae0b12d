"""The ledger for a command: through the process that owns it, or opened here if nobody does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from core.clock import SystemClock
from core.errors import ConfigError
from core.ids import RandomIds
from ledger.corrections import batch_of_adjustments
from ledger.delta import export_delta
from ledger.errors import LedgerUnavailable
from ledger.export import ExportAsk, Format, Layout, export
from ledger.model import CallRow, EventRow
from ledger.ports import (
    AccountPoint,
    Adjustment,
    CallsAsk,
    CallsRow,
    Filter,
    Interval,
    LedgerReader,
    LedgerStore,
    PastCall,
    PastCallsAsk,
    SpendAsk,
    SpendRow,
    StateChange,
)
from spendgate.ledger_client import LedgerClient
from spendgate.open_ledger import OFF, open_ledger
from spendgate.settings import Settings


class OwnLedger:
    """`LedgerReader` on a ledger of this process."""

    def __init__(self, store: LedgerStore) -> None:
        self.store = store
        self._clock = SystemClock()

    async def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """As `LedgerStore.spend`."""
        return await asyncio.to_thread(self.store.spend, ask)

    async def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """As `LedgerStore.calls`."""
        return await asyncio.to_thread(self.store.calls, ask)

    async def call_list(self, ask: CallsAsk) -> list[CallRow]:
        """As `LedgerStore.call_list`."""
        return await asyncio.to_thread(self.store.call_list, ask)

    async def past_calls(self, ask: PastCallsAsk) -> list[PastCall]:
        """As `LedgerStore.past_calls`."""
        return await asyncio.to_thread(self.store.past_calls, ask)

    async def of_request(self, request_id: str) -> tuple[list[CallRow], list[EventRow]]:
        """As `LedgerStore.of_request`."""
        return await asyncio.to_thread(self.store.of_request, request_id)

    async def postings(self, account_ids: Sequence[str] | None, interval: Interval | None = None) -> list[AccountPoint]:
        """As `LedgerStore.postings`."""
        return await asyncio.to_thread(self.store.postings, account_ids, interval)

    async def state_changes(
        self, interval: Interval, account_ids: Sequence[str] | None, limit: int
    ) -> list[StateChange]:
        """As `LedgerStore.state_changes`."""
        return await asyncio.to_thread(self.store.state_changes, interval, account_ids, limit)

    async def export_to(self, path: str, kind: str, layout: str, interval: Interval, filters: Sequence[Filter]) -> int:
        """Write cost records into a file; how many."""
        ask = ExportAsk(interval, Format(kind), Layout(layout), tuple(filters))
        try:
            return await asyncio.to_thread(export, self.store, Path(path), ask)
        except OSError as error:
            raise ConfigError(f"{path} can't be written: {error.strerror}") from None

    async def export_delta(self, table: str, start_ms: int) -> int:
        """Append cost records to a Delta Lake table; how many."""
        return await asyncio.to_thread(export_delta, self.store, table, self._clock.now_ms(), start_ms)

    async def adjust(self, adjustments: Sequence[Adjustment]) -> int:
        """Add adjustments of calls that the live state no longer knows; how many were new."""
        at = await asyncio.to_thread(self.store.position)
        batch = batch_of_adjustments(adjustments, at, self._clock.now_ms())
        return await asyncio.to_thread(self.store.append, batch)

    async def facts(self) -> dict[str, Any]:
        """As `LedgerStore.facts`, with its position."""
        found = await asyncio.to_thread(self.store.facts)
        position = await asyncio.to_thread(self.store.position)
        return found | {"epoch": position.epoch, "sequence": position.sequence}


@contextlib.asynccontextmanager
async def ledger_of(settings: Settings) -> AsyncIterator[LedgerReader]:
    """The ledger that the settings name.

    Raises:
        ConfigError: it is switched off, or can't be opened.
        LedgerUnavailable: its owner does not answer.
    """
    if settings.ledger == OFF:
        raise ConfigError("the ledger is switched off (SPENDGATE_LEDGER)")
    client = LedgerClient(settings.data_dir, settings.namespace)
    try:
        await client.facts()
    except LedgerUnavailable as away:
        try:
            store = open_ledger(settings, RandomIds(SystemClock()))
        except ConfigError as error:
            raise LedgerUnavailable(f"{away.message}; {error.message}") from None
        try:
            yield OwnLedger(store)
        finally:
            store.close()
    else:
        yield client
