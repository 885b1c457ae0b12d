"""Accounting truths, checked on the live state: in production, on a timer and by hand, not only in tests.

1. held = the sum of the open holds on the account;
2. spent = the sum of what the account's events posted;
3. a hold is released once, and none that was never held;
4. the open holds are those that began and have not ended, by the events.

The state moves while it is read. What does not add up is read again; only drift that stays is reported.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from budget.ports import AccountBalance, OpenHold

_TRIES = 5
_PAUSE_S = 0.2
_PAGE = 5_000
MONEY_EVENTS = frozenset({"settle", "void", "expire", "true_up", "post"})


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What the events came to that are no longer in the stream.

    id: of the last of them; "": none has gone. spent_nano: posted by them, per account.
    open_holds: that began in them and did not end there.
    """

    id: str = ""
    events: int = 0
    spent_nano: Mapping[str, int] = field(default_factory=dict)
    open_holds: frozenset[str] = frozenset()


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

    async def trimmed(self) -> Trimmed:
        """What came before the first of them."""
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


@dataclass(slots=True)
class Fold:
    """What the events say, as far as they have been read; who checks often keeps it, and only new events are read.

    spent_nano: per account. open_holds: began and not ended. wrong: releases of what was not held.
    last: id of the last event read.
    """

    events: int = 0
    spent_nano: Counter[str] = field(default_factory=Counter)
    open_holds: set[str] = field(default_factory=set)
    wrong: list[Drift] = field(default_factory=list)
    last: str = ""

    async def read(self, state: LiveState) -> None:
        """Everything up to now.

        Raises:
            StoreUnavailable: the events can't be read.
        """
        while True:
            page = await state.events(f"({self.last}" if self.last else "-", _PAGE)
            trimmed = await state.trimmed()
            if event_order(trimmed.id) > event_order(self.last):  # some may have gone before they were read
                self._begin(trimmed)
                continue
            for self.last, event in page:
                self._add(event)
            self.events += len(page)
            if not page:
                return

    def _begin(self, trimmed: Trimmed) -> None:
        self.events, self.last = trimmed.events, trimmed.id
        self.spent_nano = Counter(trimmed.spent_nano)
        self.open_holds = set(trimmed.open_holds)

    def _add(self, event: dict[str, str]) -> None:
        if event["type"] == "hold":
            self.open_holds.add(event["hold"])
        if event["type"] not in MONEY_EVENTS:
            return
        if event["before"] == "held":
            if event["hold"] in self.open_holds:
                self.open_holds.discard(event["hold"])
            else:
                self.wrong.append(Drift("a hold that is open is released, once", event["hold"], 1, 2))
        for account in event["accounts"].split("\n"):
            self.spent_nano[account] += int(event["delta_nano"])


def event_order(event_id: str) -> tuple[int, int]:
    """Ids of events in their order; "" is before all."""
    ms, _, number = event_id.partition("-")
    return int(ms or 0), int(number or 0)


async def verify(state: LiveState, fold: Fold | None = None) -> Verification:
    """Check every account; drift is what each of several readings found.

    fold: of earlier events; None begins with the first event.

    Raises:
        StoreUnavailable: the state can't be read.
    """
    fold = fold or Fold()
    result = await _verify_once(state, fold)
    for _ in range(_TRIES - 1):
        if not result.drift:
            break
        await asyncio.sleep(_PAUSE_S)  # calls that settle between two readings look like drift, once
        found = {(d.rule, d.subject) for d in result.drift}
        result = await _verify_once(state, fold)
        result.drift = [d for d in result.drift if (d.rule, d.subject) in found]
    return result


async def _verify_once(state: LiveState, fold: Fold) -> Verification:
    accounts = await state.all_accounts()
    before = {b.id: b for b in await state.balances(accounts)}
    await fold.read(state)
    began = set(fold.open_holds)
    holds = await state.open_holds()
    held: Counter[str] = Counter()
    for hold in holds:
        for account in hold.account_ids:
            held[account] += hold.amount_nano
    after = {b.id: b for b in await state.balances(accounts)}
    result = Verification(len(accounts), len(holds), fold.events, list(fold.wrong))
    for account in accounts:
        now = after[account]
        if now != before[account]:  # moved while it was read: its own books will be read again
            continue
        posted = fold.spent_nano[account]
        if now.held_nano != held[account]:
            result.drift.append(Drift("held is the sum of the open holds", account, held[account], now.held_nano))
        if now.spent_nano != posted:
            result.drift.append(Drift("spent is the sum of the events", account, posted, now.spent_nano))
    there = {hold.id for hold in holds}
    result.drift += [Drift("an open hold has an event", hold_id, 1, 0) for hold_id in sorted(there - began)]
    result.drift += [Drift("a hold that has not ended is open", h, 1, 0) for h in sorted(began - there)]
    return result
