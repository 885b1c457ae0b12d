"""Writes of budgets: read, change, write if nobody else did; again if somebody did.

Failure policy: a write that the store refuses changes nothing and is the caller's error. After a write that went
through, a failing refresh is not an error: the watcher of the snapshot brings the change soon.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace

from budget.codec import BUDGET_KIND, BudgetSpec, budget_from_spec, dump_budget
from budget.model import Budget
from core.errors import Conflict, StoreUnavailable
from dashboard.deps import Deps
from dashboard.errors import Stale
from dashboard.specs import budget_slug, changed_budget, check_models, checked_total

_TRIES = 20
_NAMES = 100

Revisions = frozenset[str] | None

_MANAGED_IN = {
    "env": "the environment (BUDGET_DEFAULT_LIMIT, BUDGET_SOFT_CAP, BUDGET_HARD_CAP)",
    "yaml": "the YAML file of budgets",
    "edge": "Edge Config",
}


class BudgetWriter:
    """The one way by which this surface writes budgets."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def create(self, spec: BudgetSpec) -> Budget:
        """Store a new budget under its own id, or under one made from its scope and cadence.

        Raises:
            InvalidInput: a field breaks a rule.
            Conflict: the id is taken.
        """
        draft = budget_from_spec(spec, budget_id="new", source="api", now_ms=self._deps.clock.now_ms())
        check_models(draft, self._deps.routes)
        for budget_id in _names(spec.id, draft):
            budget = replace(draft, id=budget_id)
            try:
                revision = await self._put(budget_id, dump_budget(budget), expected=0)
            except Conflict:
                continue
            return replace(budget, revision=revision)
        raise Conflict(f"a budget {spec.id or budget_slug(draft.scope, draft.cadence)} exists already")

    async def change(self, budget_id: str, edit: Callable[[Budget], Budget], if_match: Revisions) -> Budget:
        """Replace a budget by `edit` of its newest form; the same object back means no change.

        if_match: the revisions that the caller knows; None: any.

        Raises:
            NotFound: there is no such budget.
            Stale: it has none of these revisions.
            Conflict: others kept changing it.
        """
        for _ in range(_TRIES):
            budget = await self._newest(budget_id, if_match)
            changed = edit(budget)
            if changed is budget:
                return budget
            try:
                revision = await self._put(budget_id, dump_budget(changed), expected=budget.revision)
            except Conflict:
                continue
            return replace(changed, revision=revision)
        raise Conflict(f"the budget {budget_id} keeps being changed by others; try again")

    async def edit(self, budget_id: str, data: object, if_match: Revisions, *, partial: bool) -> Budget:
        """Change a budget to what `data` says; see `dashboard.specs.changed_budget`.

        Raises:
            InvalidInput: a field breaks a rule.
            Conflict: it is managed elsewhere.
            NotFound, Stale: as for `change`.
        """
        now_ms = self._deps.clock.now_ms()

        def edit(budget: Budget) -> Budget:
            managed_here(budget)
            changed = changed_budget(budget, data, partial=partial, now_ms=now_ms)
            check_models(changed, self._deps.routes)
            return checked_total(changed, "limitUsd")

        return await self.change(budget_id, edit, if_match)

    async def delete(self, budget_id: str, if_match: Revisions) -> None:
        """Delete a budget.

        Raises:
            NotFound, Stale, Conflict: as for `change`.
        """
        for _ in range(_TRIES):
            budget = await self._newest(budget_id, if_match)
            managed_here(budget)
            try:
                await self._put(budget_id, None, expected=budget.revision)
            except Conflict:
                continue
            return
        raise Conflict(f"the budget {budget_id} keeps being changed by others; try again")

    async def _newest(self, budget_id: str, if_match: Revisions) -> Budget:
        await self._deps.refresh()
        budget = self._deps.book.get(budget_id)
        if if_match is not None and str(budget.revision) not in if_match:
            raise Stale(f"the budget {budget_id} is at revision {budget.revision} now; read it again")
        return budget

    async def _put(self, budget_id: str, text: bytes | None, *, expected: int) -> int:
        revision = await self._deps.documents.put(BUDGET_KIND, budget_id, text, expected=expected)
        with contextlib.suppress(StoreUnavailable):  # the write is done; repeating it would do it twice
            await self._deps.refresh()
        return revision


def managed_here(budget: Budget) -> None:
    """Let a budget pass that is changed here.

    Raises:
        Conflict: it is managed elsewhere.
    """
    if budget.source != "api":
        place = _MANAGED_IN.get(budget.source, budget.source)
        raise Conflict(
            f"the budget {budget.id} is managed by {place}; change or remove it there (reset and top-up work here)"
        )


def _names(given: str | None, draft: Budget) -> list[str]:
    if given:
        return [given]
    slug = budget_slug(draft.scope, draft.cadence)
    return [slug, *(f"{slug}-{number}" for number in range(2, _NAMES + 1))]
