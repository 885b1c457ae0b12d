"""The budgets in force in this worker, found by scope. Changed only by the watcher of the snapshot."""

from collections.abc import Iterable, Sequence

from budget.model import AccountTerms, Budget
from budget.policy import account_terms
from core.errors import NotFound
from core.scope import Scope


class BudgetBook:
    """Budgets by id and by scope, and the version of the snapshot that they are of.

    version: as in `budget.ports.Documents`; sent with every reserve.
    smallest_call_nano: the least that any call of the routes can hold; see `Stopped`.
    changes: counts them, so that what was worked out from the budgets can be kept until the next.
    """

    def __init__(self, budgets: Iterable[Budget] = (), *, version: int = 0, smallest_call_nano: int = 1) -> None:
        self.version = version
        self.smallest_call_nano = smallest_call_nano
        self.changes = 0
        self._by_id: dict[str, Budget] = {}
        self._by_scope: dict[Scope, dict[str, Budget]] = {}
        self._of_all: dict[str, dict[str, Budget]] = {}  # those on ``type:*``, by type
        for budget in budgets:
            self.put(budget)

    def put(self, budget: Budget) -> None:
        """Add or replace a budget."""
        self.remove(budget.id)
        self._by_id[budget.id] = budget
        beside = self._by_scope.setdefault(budget.scope, {})
        beside[budget.id] = budget
        if budget.scope.is_wildcard:
            self._of_all[budget.scope.type] = beside

    def remove(self, budget_id: str) -> None:
        """Forget a budget, if it is there."""
        self.changes += 1
        budget = self._by_id.pop(budget_id, None)
        if budget is None:
            return
        beside = self._by_scope[budget.scope]
        del beside[budget_id]
        if not beside:
            del self._by_scope[budget.scope]
            if budget.scope.is_wildcard:
                del self._of_all[budget.scope.type]

    def get(self, budget_id: str) -> Budget:
        """The budget of this id.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._by_id[budget_id]
        except KeyError:
            raise NotFound(f"there is no budget {budget_id}") from None

    def all(self) -> list[Budget]:
        """Every budget, by id."""
        return [self._by_id[i] for i in sorted(self._by_id)]

    def for_scope(self, scope: Scope) -> list[Budget]:
        """The budgets that watch a scope. An exact budget replaces the wildcard's of the same cadence; a wildcard
        of another cadence stays, so naming a key can't lift its monthly limit by giving it a daily one.
        """
        on_it, on_all = self._by_scope.get(scope), self._of_all.get(scope.type)
        exact = [b for b in on_it.values() if not b.paused] if on_it else []
        if on_all is None:
            return exact
        named = {b.cadence for b in exact}
        return exact + [b for b in on_all.values() if not b.paused and b.cadence not in named]

    def accounts(self, chain: Sequence[Scope], now_ms: int) -> tuple[AccountTerms, ...]:
        """The accounts of a chain of scopes, with the terms of this instant."""
        return tuple(
            account_terms(budget, scope, now_ms, self.smallest_call_nano)
            for scope in chain
            for budget in self.for_scope(scope)
        )
