"""The pages of budgets: list, create, change, pause, top up, and what a budget would do while it is typed.

Every write goes the way of /api/budgets, with the revision that the form was made from: who was quicker is not undone.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from budget.codec import BudgetSpec, TopUpSpec, budget_from_spec, parse_spec
from budget.model import Budget
from core.errors import Conflict, InvalidInput
from core.money import fraction_floor
from core.period import period_at
from dashboard.budget_form import FIELDS, NEW, filled, given_of
from dashboard.budget_writer import BudgetWriter
from dashboard.deps import Deps
from dashboard.specs import check_models, with_top_up
from dashboard.spend import current_spend
from dashboard.views import fullest_of

Handler = Callable[[Request], Awaitable[Response]]


class Shower(Protocol):
    """What shows pages and takes forms of who is logged in."""

    def show(self, request: Request, name: str, status: int = 200, **context: Any) -> Response:
        """A page."""
        ...

    async def posted(self, request: Request) -> dict[str, str]:
        """A form."""
        ...


class BudgetPages:
    """The handlers."""

    def __init__(self, pages: Shower, deps: Deps) -> None:
        self._pages = pages
        self._deps = deps
        self._writer = BudgetWriter(deps)

    async def all(self, request: Request) -> Response:
        """Every budget, and a form for a new one."""
        await self._deps.refresh()
        given = {name: text for name, text in request.query_params.items() if name in FIELDS}
        return await self._list(request, NEW | given, None)

    async def create(self, request: Request) -> Response:
        """A new budget."""
        form = await self._pages.posted(request)
        try:
            budget = await self._writer.create(parse_spec(BudgetSpec, filled(form)))
        except (InvalidInput, Conflict) as error:
            given = {name: text for name, text in form.items() if name in FIELDS}
            return await self._list(request, NEW | given, error, error.status)
        return _to(budget.id)

    async def preview(self, request: Request) -> Response:
        """What the form's budget would do, or what is wrong with it."""
        now_ms = self._deps.clock.now_ms()
        try:
            spec = parse_spec(BudgetSpec, filled(dict(request.query_params)))
            budget = budget_from_spec(spec, budget_id="new", source="api", now_ms=now_ms)
            check_models(budget, self._deps.routes)
        except InvalidInput as error:
            return self._pages.show(request, "preview.html", budget=None, error=error)
        return self._pages.show(request, "preview.html", error=None, **self._effect(budget))

    async def one(self, request: Request) -> Response:
        """One budget."""
        await self._deps.refresh()
        return await self._budget(request, None)

    async def change(self, request: Request) -> Response:
        """New terms."""
        form = await self._pages.posted(request)
        try:
            given = filled(form)
        except InvalidInput as error:
            return await self._budget(request, error, error.status, form)
        return await self._edit(request, given, form)

    async def pause(self, request: Request) -> Response:
        """Out of force, or into it again."""
        form = await self._pages.posted(request)
        return await self._edit(request, {"paused": form.get("paused") == "true"}, form)

    async def top_up(self, request: Request) -> Response:
        """Extra limit for the current period. The form's own id makes a second click do nothing."""
        form = await self._pages.posted(request)
        now_ms, top_up_id = self._deps.clock.now_ms(), form.get("topUpId", "")
        budget_id = request.path_params["budget_id"]
        try:
            if not top_up_id.startswith("top_"):
                raise InvalidInput("topUpId", "is missing; load the page again")
            given = {"amountUsd": form.get("amountUsd", ""), "reason": form.get("reason", "")}
            spec = parse_spec(TopUpSpec, given)
            await self._writer.change(
                budget_id, lambda b: with_top_up(b, spec, top_up_id=top_up_id, now_ms=now_ms), None
            )
        except InvalidInput as error:
            return await self._budget(request, error, error.status)
        return _to(budget_id)

    async def _edit(self, request: Request, given: dict[str, Any], form: dict[str, str]) -> Response:
        budget_id = request.path_params["budget_id"]
        try:
            await self._writer.edit(budget_id, given, frozenset({form.get("revision", "")}), partial=True)
        except InvalidInput as error:
            return await self._budget(request, error, error.status, form)
        except Conflict as error:  # it is another by now: what it is has to be seen first
            return await self._budget(request, error, error.status)
        return _to(budget_id)

    async def _list(
        self, request: Request, given: dict[str, str], error: InvalidInput | Conflict | None, status: int = 200
    ) -> Response:
        fullest = fullest_of(await current_spend(self._deps.store, self._deps.book, self._deps.clock.now_ms()))
        budgets = self._deps.book.all()
        return self._pages.show(
            request, "budgets.html", status, budgets=budgets, fullest=fullest, given=given, error=error
        )

    async def _budget(
        self,
        request: Request,
        error: InvalidInput | Conflict | None,
        status: int = 200,
        typed: Mapping[str, str] = MappingProxyType({}),
    ) -> Response:
        budget = self._deps.book.get(request.path_params["budget_id"])
        given = given_of(budget) | {name: text for name, text in typed.items() if name in FIELDS}
        new_id = self._deps.ids.new("top")
        accounts = await current_spend(self._deps.store, self._deps.book, self._deps.clock.now_ms())
        rows = sorted((r for r in accounts if r.terms.budget.id == budget.id), key=lambda r: -r.spent_nano)
        effect = self._effect(budget)
        return self._pages.show(
            request, "budget.html", status, given=given, error=error, top_up_id=new_id, rows=rows, **effect
        )

    def _effect(self, budget: Budget) -> dict[str, Any]:
        """What a budget does, in numbers."""
        return {
            "budget": budget,
            "soft_nano": fraction_floor(budget.limit_nano, budget.policy.soft_cap),
            "hard_nano": fraction_floor(budget.limit_nano, budget.policy.hard_cap),
            "ends_ms": period_at(budget.cadence, budget.zone, self._deps.clock.now_ms()).end_ms,
        }


def budget_pages(pages: Shower, deps: Deps) -> Iterable[tuple[str, str, Handler]]:
    """Method, path and handler of each page."""
    view, one = BudgetPages(pages, deps), "/ui/budgets/{budget_id}"
    yield "GET", "/ui/budgets", view.all
    yield "POST", "/ui/budgets", view.create
    yield "GET", "/ui/budgets/preview", view.preview
    yield "GET", one, view.one
    yield "POST", one, view.change
    yield "POST", f"{one}/pause", view.pause
    yield "POST", f"{one}/top-up", view.top_up


def _to(budget_id: str) -> Response:
    return RedirectResponse(f"/ui/budgets/{budget_id}", 303)
