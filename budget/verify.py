"""Accounting truths, checked on the live state: in production, on a timer and by hand, not only in tests.

1. held = the sum of the open holds on the account;
2. spent = the sum of what the account's events posted;
3. no hold was released twice.

The state moves while it is read. An account that does not add up is read again; only drift that stays is reported.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from budget.ports import AccountBalance, OpenHold

_TRIES = 5
_PAUSE_S = 0.2
_PAGE = 5_000
_MONEY_EVENTS = frozenset({"settle", "void", "expire", "true_up", "post"})


class LiveState(Protocol):
    """What verification reads."""

    async def all_accounts(self) -> list[str]:
        """Ids of every account that is kept."""
        ...

    async def balances(self, account_ids: Sequence[str]) -> list[AccountBalance]:
        """Balances, in the order asked."""
        ...

    async def open_holds(self) -> list[OpenHold]:
        """Every hold that has not ended."""
        ...

    async def events(self, after: str = "-", count: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Events from `after` on, oldest first."""
        ...


@dataclass(frozen=True, slots=True)
class Drift:
    """One truth that does not hold: of which account or hold, what the books say, what the balance says."""

    rule: str
    subject: str
    expected: int
    found: int


@dataclass(slots=True)
class Verification:
    """What was checked, and what was found."""

    accounts: int = 0
    open_holds: int = 0
    events: int = 0
    drift: list[Drift] = field(default_factory=list)


async def verify(state: LiveState) -> Verification:
    """Check every account; drift is what is still there after several readings.

    Raises:
        StoreUnavailable: the state can't be read.
    """
    for attempt in range(_TRIES):
        result = await _verify_once(state)
        if not result.drift:
            break
        if attempt < _TRIES - 1:
            await asyncio.sleep(_PAUSE_S)  # calls that settle between two readings look like drift, once
    return result


async def _verify_once(state: LiveState) -> Verification:
    accounts = await state.all_accounts()
    before = {b.id: b for b in await state.balances(accounts)}
    holds = await state.open_holds()
    held: Counter[str] = Counter()
    for hold in holds:
        for account in hold.account_ids:
            held[account] += hold.amount_nano
    posted: Counter[str] = Counter()
    released: Counter[str] = Counter()
    events = 0
    async for event in _events(state):
        events += 1
        if event["type"] not in _MONEY_EVENTS:
            continue
        if event["before"] == "held":
            released[event["hold"]] += 1
        for account in event["accounts"].split("\n"):
            posted[account] += int(event["delta_nano"])
    after = {b.id: b for b in await state.balances(accounts)}
    result = Verification(len(accounts), len(holds), events)
    for account in accounts:
        now = after[account]
        if now != before[account]:  # moved while it was read: its own books will be read again
            continue
        if now.held_nano != held[account]:
            result.drift.append(Drift("held is the sum of the open holds", account, held[account], now.held_nano))
        if now.spent_nano != posted[account]:
            result.drift.append(Drift("spent is the sum of the events", account, posted[account], now.spent_nano))
    for hold_id, times in released.items():
        if times > 1:
            result.drift.append(Drift("a hold is released once", hold_id, 1, times))
    return result


async def _events(state: LiveState) -> AsyncIterator[dict[str, str]]:
    after = "-"
    while True:
        page = await state.events(after, _PAGE)
        for _, event in page:
            yield event
        if len(page) < _PAGE:
            return
        after = f"({page[-1][0]}"
