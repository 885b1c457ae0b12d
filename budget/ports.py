"""What the budget needs from the outside, by role."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from budget.model import Hold, HoldStatus, Refusal, ReserveRequest, Resolution, Settlement, StaleSnapshot
from core.values import value

#: How far a worker's clock may be from the store's.
MAX_CLOCK_SKEW_MS = 5_000
#: How long an account is kept after the end of its period.
ACCOUNT_KEPT_AFTER_END_MS = 40 * 86_400_000


@value
class AccountBalance:
    """What the store has of an account; zeroes if it has none."""

    id: str
    spent_nano: int
    held_nano: int


@value
class DueHold:
    """An open hold whose lease is over, with the accounts that it is on."""

    id: str
    account_ids: tuple[str, ...]


@value
class FoundHold:
    """What the store remembers of a hold; `cost_nano` is what was posted, 0 while it is held."""

    status: HoldStatus
    account_ids: tuple[str, ...]
    amount_nano: int
    cost_nano: int


@value
class OpenHold:
    """A hold that has not ended.

    candidate, tokens: what was admitted, for a repeated reserve. owner, detail: as in `ReserveRequest`.
    """

    id: str
    amount_nano: int
    account_ids: tuple[str, ...]
    candidate: int = 0
    tokens: int = 0
    owner: str = ""
    detail: bytes = b"{}"


@value
class Continuity:
    """What a store says of its own memory.

    epoch: id of the memory; None: there is none. A rebuilt store has another.
    sequence: how many events it has counted.
    doubt: why it is not to be trusted; None: nothing is known against it.
    archived: up to which event there is a copy elsewhere.
    past: epochs that this one continues.
    """

    epoch: str | None
    sequence: int = 0
    doubt: str | None = None
    archived: int = 0
    past: frozenset[str] = frozenset()

    def continues(self, epoch: str) -> bool:
        """Whether everything of that epoch is in this one, as far as is known."""
        return epoch == self.epoch or epoch in self.past


class BudgetStore(Protocol):
    """Live accounts and holds. Every verb is atomic.

    Failure policy: a store that can't be reached, or refuses a write, raises
    `core.errors.StoreUnavailable`; the caller admits nothing. `reserve` and `resolve` may be repeated with the
    same id after such an error: the second has no second effect. One that has lost memory since the epoch that
    was joined raises `core.errors.StoreLost` from every verb that writes, and has done nothing.
    """

    @property
    def epoch(self) -> str | None:
        """The epoch that was joined; None: none yet."""
        ...

    async def look(self) -> Continuity:
        """What the store says of its memory."""
        ...

    def join(self, epoch: str, sequence: int) -> None:
        """Work in this epoch from now on; without it the first verb that writes joins the present one."""
        ...

    async def restore(self, hold: OpenHold, lease_ms: int) -> HoldStatus:
        """Hold again what a rebuilt store does not know, whatever the limits say; the status that it has now."""
        ...

    def reserve(self, request: ReserveRequest) -> Awaitable[Hold | Refusal | StaleSnapshot]:
        """Hold the ceiling of the first candidate that fits on all its accounts, or on none."""
        ...

    def resolve(self, resolution: Resolution) -> Awaitable[Settlement]:
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


@value
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
