"""One budget's rules at any time: which accounts and models calls would have had under it. No I/O.

They are those of `planner.Planner`, with this one budget alone and every circuit closed.
"""

from dataclasses import dataclass, field
from functools import lru_cache

from budget.book import BudgetBook
from budget.model import AccountTerms, Budget
from core.clock import Clock
from core.errors import NotFound
from core.scope import Chain, Scope
from gateway.planner import Planner, Shape
from routing.health import Health
from routing.model import Routes
from telemetry.prices import PriceBook, UnpricedModel

#: Whose accounts are kept from call to call; then it begins anew.
_MOST_ACCOUNTS = 10_000


@dataclass(slots=True)
class Rulebook:
    """Asked most quickly in the order of time. scope_type: of the budget; a call has one key of it, or none."""

    planner: Planner
    scope_type: str
    _accounts: dict[str | None, tuple[AccountTerms, ...]] = field(default_factory=dict)

    def ladder(self, key: str | None, model: str, at_ms: int) -> Shape | None:
        """Accounts and models for calls that ask for a model; None: it is not in the routes, or had no price then."""
        try:
            return self.planner.shape(_chain(self.scope_type, key), self.planner.routes.find(model), at_ms)
        except (NotFound, UnpricedModel):
            return None

    def name_of(self, model: str) -> str:
        """The name of a model that may be called by another; what is not known stays as it is."""
        try:
            return self.planner.routes.find(model).name
        except NotFound:
            return model

    def accounts(self, key: str | None, at_ms: int) -> tuple[AccountTerms, ...]:
        """That spend is posted to."""
        known = self._accounts.get(key)
        if known is None or not all(_in_force(terms, at_ms) for terms in known):
            scopes = () if key is None else (Scope(self.scope_type, key),)
            if len(self._accounts) >= _MOST_ACCOUNTS:
                self._accounts.clear()
            known = self._accounts[key] = self.planner.book.accounts(scopes, at_ms)
        return known


@dataclass(slots=True)
class Rulebooks:
    """Makes the rules of budgets, under the routes and prices in force."""

    routes: Routes
    prices: PriceBook
    smallest_call_nano: int
    clock: Clock

    def of(self, budget: Budget) -> Rulebook:
        """Its rules. The budget need not exist."""
        book = BudgetBook([budget], smallest_call_nano=self.smallest_call_nano)
        return Rulebook(Planner(self.routes, self.prices, book, Health(self.clock)), budget.scope.type)


def _in_force(terms: AccountTerms, at_ms: int) -> bool:
    return terms.period.start_ms <= at_ms and (terms.until_ms is None or at_ms < terms.until_ms)


@lru_cache(10_000)
def _chain(scope_type: str, key: str | None) -> Chain:
    return Chain(() if key is None or scope_type == "model" else (Scope(scope_type, key),))
