"""Simulated accounts: what is spent and held on them, as time goes on. Amounts are nano-dollars."""

import heapq
from dataclasses import dataclass, field
from itertools import count

from budget.model import AccountTerms, Balance

#: With more accounts than this, those whose period is over are forgotten.
_MANY = 10_000
_GRACE_MS = 3_600_000

Terms = tuple[AccountTerms, ...]


@dataclass(slots=True)
class _Account:
    """ends_ms: when its period is over; None: never."""

    ends_ms: int | None
    spent_nano: int = 0
    held_nano: int = 0


@dataclass(slots=True)
class Books:
    """Accounts by id, and the holds that are open, by their ends."""

    _accounts: dict[str, _Account] = field(default_factory=dict)
    _open: list[tuple[int, int, int, int, Terms]] = field(default_factory=list)
    _number: "count[int]" = field(default_factory=count)

    def balances(self, accounts: Terms) -> tuple[Balance, ...]:
        """What is on them now, and their states."""
        found = []
        for terms in accounts:
            account = self._accounts.get(terms.id)
            spent_nano, held_nano = (account.spent_nano, account.held_nano) if account else (0, 0)
            found.append(Balance(spent_nano, held_nano, terms.state_at(spent_nano)))
        return tuple(found)

    def hold(self, accounts: Terms, amount_nano: int, cost_nano: int, end_ms: int) -> None:
        """Hold money until a call ends, when it costs what it costs."""
        for terms in accounts:
            self._account(terms).held_nano += amount_nano
        heapq.heappush(self._open, (end_ms, next(self._number), amount_nano, cost_nano, accounts))

    def post(self, accounts: Terms, nano: int) -> None:
        """Spend at once."""
        for terms in accounts:
            self._account(terms).spent_nano += nano

    def until(self, now_ms: int) -> None:
        """Let the holds end whose calls have ended by now."""
        while self._open and self._open[0][0] <= now_ms:
            _, _, amount_nano, cost_nano, accounts = heapq.heappop(self._open)
            for terms in accounts:
                account = self._account(terms)
                account.held_nano -= amount_nano
                account.spent_nano += cost_nano

    def forget(self, now_ms: int) -> None:
        """Accounts whose period is over, if there are many."""
        if len(self._accounts) <= _MANY:
            return
        over_ms = now_ms - _GRACE_MS
        kept = {i: a for i, a in self._accounts.items() if a.held_nano or a.ends_ms is None or a.ends_ms > over_ms}
        self._accounts = kept

    def _account(self, terms: AccountTerms) -> _Account:
        account = self._accounts.get(terms.id)
        if account is None:
            account = self._accounts[terms.id] = _Account(terms.period.end_ms)
        return account
