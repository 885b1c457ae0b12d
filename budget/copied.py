"""Documents that outlive the store's memory: a write is told of once the copy of the events has it.

A settlement that no copy has is remembered by its worker (`budget.witness`); a budget or a key has no such witness, and
one that a person was told of must not be gone with the store.
"""

import asyncio
import logging
import time

from budget.ports import Change
from budget.redis_store import RedisBudgetStore
from core.errors import StoreUnavailable

log = logging.getLogger("spendgate.budget")

_LOOK_EVERY_S = 0.05


class CopiedDocuments:
    """`budget.ports.Documents` of a store. patience_s: how long the copy is waited for; the write stands anyway."""

    def __init__(self, store: RedisBudgetStore, patience_s: float = 3.0) -> None:
        self._store = store
        self._patience_s = patience_s

    async def changes_since(self, version: int) -> tuple[int, list[Change]]:
        """See `Documents.changes_since`."""
        return await self._store.changes_since(version)

    async def put(self, kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        """See `Documents.put`; returns when the write is in the copy, where one is kept."""
        version = await self._store.put(kind, document_id, text, expected=expected)
        if not await self._copied(self._store.sequence):
            log.warning("%s %s is in the store, and not in the copy of its events yet", kind, document_id)
        return version

    async def _copied(self, sequence: int) -> bool:
        """Whether the copy has come so far in time; also where there is none."""
        until_s = time.monotonic() + self._patience_s
        while time.monotonic() < until_s:
            try:
                archived = (await self._store.look()).archived
            except StoreUnavailable:
                return False  # it was written; what has become of the store the next caller hears
            if not archived or archived >= sequence:
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False
