"""What the budget needs from the outside, by role."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from budget.model import Hold, HoldStatus, Refusal, ReserveRequest, Resolution, Settlement, StaleSnapshot


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """What the store has of an account; zeroes if it has none."""

    id: str
    spent_nano: int
    held_nano: int


@dataclass(frozen=True, slots=True)
class DueHold:
    """An open hold whose lease is over, with the accounts that it is on."""

    id: str
    account_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundHold:
    """What the store remembers of a hold; `cost_nano` is what was posted, 0 while it is held."""

    status: HoldStatus
    account_ids: tuple[str, ...]
    amount_nano: int
    cost_nano: int


@dataclass(frozen=True, slots=True)
class OpenHold:
    """A hold that has not ended."""

    id: str
    amount_nano: int
    account_ids: tuple[str, ...]


class BudgetStore(Protocol):
    """Live accounts and holds. Every verb is atomic.

    Failure policy: a store that can't be reached, or refuses a write, raises
    `core.errors.StoreUnavailable`; the caller admits nothing. `reserve` and `resolve` may be repeated with the
    same id after such an error: the second has no second effect.
    """

    async def reserve(self, request: ReserveRequest) -> Hold | Refusal | StaleSnapshot:
        """Hold the ceiling of the first candidate that fits on all its accounts, or on none."""
        ...

    async def resolve(self, resolution: Resolution) -> Settlement:
        """End a hold: post what it cost, release it, append the event. Never refused for lack of money."""
        ...

    async def extend(self, hold_ids: Sequence[str], lease_ms: int) -> list[str]:
        """Renew leases from the store's clock; returns the ids that are no longer held."""
        ...

    async def find(self, hold_id: str) -> FoundHold | None:
        """What is remembered of a hold; None if nothing."""
        ...

    async def due(self, limit: int) -> list[DueHold]:
        """Holds whose lease is over, oldest first."""
        ...

    async def balances(self, account_ids: Sequence[str]) -> list[AccountBalance]:
        """Balances, in the order asked."""
        ...

    async def current_accounts(self, now_ms: int) -> list[str]:
        """Ids of the accounts whose period is not over."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """A document as it is now; text None: deleted."""

    kind: str
    id: str
    text: bytes | None
    version: int


class Documents(Protocol):
    """The versioned snapshot of budgets and keys, shared by all workers.

    One counter numbers all changes; `BudgetStore.reserve` refuses a worker that has not read the newest.
    """

    async def changes_since(self, version: int) -> tuple[int, list[Change]]:
        """(newest version, every document that changed after `version`, in its present form)."""
        ...

    async def put(self, kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        """Write (or, with None, delete) a document; returns the new version.

        expected: the version that the document must still have (0: it must not exist); None: any.

        Raises:
            Conflict: it has another.
        """
        ...
