"""Keeps this process's budgets, keys and price overrides equal to the store's.

A change is seen in two ways: by looking at the version a few times a second, and at once by the first reserve that
the store refuses as stale. The second makes the first a matter of comfort, not of correctness.
"""

import asyncio
import logging

from budget.book import BudgetBook
from budget.codec import BUDGET_KIND, load_budget
from budget.ports import Change, Documents
from core.errors import InvalidInput, StoreUnavailable
from core.key_codec import KEY_KIND, load_key
from core.keys import KeyRing
from telemetry.overrides import PRICE_KIND, load_override
from telemetry.prices import PriceBook

log = logging.getLogger("spendgate.snapshot")

_LOOK_EVERY_S = 0.25


class Snapshot:
    """Reads changed documents into the books and the key ring."""

    def __init__(self, documents: Documents, book: BudgetBook, keys: KeyRing, prices: PriceBook) -> None:
        self._documents = documents
        self._book = book
        self._keys = keys
        self._prices = prices
        self._reading = asyncio.Lock()
        self._unreadable: dict[str, str] = {}
        self.loaded = False

    def why_not_ready(self) -> str | None:
        """Why calls can't be admitted under this snapshot; None while they can.

        A budget that this version can't read is a cap that it could not hold, and a price that it can't read is one
        that it would not charge: it admits nothing.
        """
        if not self.loaded:
            return "the budgets have not been read from the store yet"
        for name, why in self._unreadable.items():
            return f"{name} can't be read: {why}"
        return None

    async def refresh(self) -> None:
        """Read what has changed.

        Raises:
            StoreUnavailable: nothing was read; the old snapshot stays.
        """
        async with self._reading:
            newest, changes = await self._documents.changes_since(self._book.version)
            if newest < self._book.version:
                log.error("the store's snapshot went back from version %d to %d", self._book.version, newest)
                self._forget()
            for change in changes:
                name = f"{change.kind} {change.id}"
                self._unreadable.pop(name, None)
                try:
                    self._apply(change)
                except (InvalidInput, ValueError, KeyError, TypeError) as error:
                    log.error("%s can't be read: %s", name, error)
                    self._unreadable[name] = str(error)
            self._book.version = newest
            self.loaded = True

    async def watch(self) -> None:
        """Refresh until cancelled; a store that is away is asked again at the next turn."""
        while True:
            try:
                await self.refresh()
            except StoreUnavailable as error:
                log.warning("budgets can't be read: %s", error.message)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _apply(self, change: Change) -> None:
        if change.kind == BUDGET_KIND:
            if change.text is None:
                self._book.remove(change.id)
            else:
                self._book.put(load_budget(change.text, revision=change.version))
        elif change.kind == KEY_KIND:
            if change.text is None:
                self._keys.remove(change.id)
            else:
                self._keys.put(load_key(change.text))
        elif change.kind == PRICE_KIND:
            if change.text is None:
                self._prices.remove(change.id)
            else:
                self._prices.put(load_override(change.text, revision=change.version))

    def _forget(self) -> None:
        self._unreadable.clear()
        for budget in self._book.all():
            self._book.remove(budget.id)
        for key in self._keys.all():
            self._keys.remove(key.id)
        for override in self._prices.overrides():
            self._prices.remove(override.id)
