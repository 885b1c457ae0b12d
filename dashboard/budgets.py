"""/api/budgets: read, create, change, delete, reset, top up.

A budget that the environment, the YAML file or Edge Config manages is changed there; here it can only be reset and
topped up. Reads carry the revision as ``ETag``; a write with ``If-Match`` is refused (412) when it is another by now.
"""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from budget.codec import BudgetSpec, ResetSpec, TopUpSpec, parse_spec, spec_of
from budget.model import Budget
from core.clock import iso_utc
from core.ids import derived_id
from core.money import format_usd
from core.period import period_at
from dashboard.budget_writer import BudgetWriter
from dashboard.deps import Deps
from dashboard.specs import with_reset, with_top_up
from dashboard.wire import answer, documented_body, entity_tag, iso_or_none, parse_if_match, read_json

IfMatch = Annotated[str | None, Header(alias="If-Match", description="revision that the change is based on")]
IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", max_length=256)]


class BudgetsApi:
    """The handlers."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._writer = BudgetWriter(deps)

    async def all(
        self,
        scope_type: Annotated[str | None, Query(alias="scopeType")] = None,
        scope_key: Annotated[str | None, Query(alias="scopeKey")] = None,
        source: Annotated[str | None, Query(description="api, env, yaml or edge")] = None,
    ) -> Response:
        """Every budget, by id."""
        await self._deps.refresh()
        wanted = [
            b
            for b in self._deps.book.all()
            if scope_type in (None, b.scope.type) and scope_key in (None, b.scope.key) and source in (None, b.source)
        ]
        now_ms = self._deps.clock.now_ms()
        return answer({"budgets": [shown_budget(budget, now_ms) for budget in wanted]})

    async def one(self, budget_id: str) -> Response:
        """One budget."""
        await self._deps.refresh()
        return self._answer(self._deps.book.get(budget_id))

    async def create(self, request: Request) -> Response:
        """A new budget; without `id` it gets one from its scope and cadence."""
        budget = await self._writer.create(parse_spec(BudgetSpec, await read_json(request)))
        return self._answer(budget, 201, {"Location": f"/api/budgets/{budget.id}"})

    async def replace(self, budget_id: str, request: Request, if_match: IfMatch = None) -> Response:
        """The whole budget anew; what is left out takes its default."""
        return await self._change(budget_id, request, if_match, partial=False)

    async def patch(self, budget_id: str, request: Request, if_match: IfMatch = None) -> Response:
        """Some fields of the budget; the rest stays."""
        return await self._change(budget_id, request, if_match, partial=True)

    async def delete(self, budget_id: str, if_match: IfMatch = None) -> Response:
        """The budget is no longer in force; its accounts stay in the record."""
        await self._writer.delete(budget_id, parse_if_match(if_match))
        return Response(status_code=204)

    async def reset(self, budget_id: str, request: Request, if_match: IfMatch = None) -> Response:
        """A fresh start within the current period, for one key or for each."""
        spec = parse_spec(ResetSpec, await read_json(request))
        now_ms = self._deps.clock.now_ms()
        edited = await self._writer.change(
            budget_id, lambda budget: with_reset(budget, spec, now_ms=now_ms), parse_if_match(if_match)
        )
        return self._answer(edited)

    async def top_up(
        self,
        budget_id: str,
        request: Request,
        if_match: IfMatch = None,
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Extra limit for the current period. The same `Idempotency-Key` again adds nothing."""
        spec = parse_spec(TopUpSpec, await read_json(request))
        now_ms = self._deps.clock.now_ms()
        new_id = derived_id("top", budget_id, idempotency_key) if idempotency_key else self._deps.ids.new("top")
        edited = await self._writer.change(
            budget_id,
            lambda budget: with_top_up(budget, spec, top_up_id=new_id, now_ms=now_ms),
            parse_if_match(if_match),
        )
        return self._answer(edited)

    async def _change(self, budget_id: str, request: Request, if_match: str | None, *, partial: bool) -> Response:
        data = await read_json(request)
        return self._answer(await self._writer.edit(budget_id, data, parse_if_match(if_match), partial=partial))

    def _answer(self, budget: Budget, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        tagged = {"ETag": entity_tag(budget.revision), **(headers or {})}
        return answer(shown_budget(budget, self._deps.clock.now_ms()), status, tagged)


def router(deps: Deps) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/budgets", tags=["budgets"])
    api = BudgetsApi(deps)
    spec, reset, top_up = (documented_body(model) for model in (BudgetSpec, ResetSpec, TopUpSpec))
    partial = documented_body(BudgetSpec)
    partial["requestBody"]["content"]["application/json"]["schema"].pop("required", None)
    one = "/{budget_id}"
    routes.add_api_route("", api.all, methods=["GET"], name="list_budgets")
    routes.add_api_route("", api.create, methods=["POST"], status_code=201, openapi_extra=spec, name="create_budget")
    routes.add_api_route(one, api.one, methods=["GET"], name="read_budget")
    routes.add_api_route(one, api.replace, methods=["PUT"], openapi_extra=spec, name="replace_budget")
    routes.add_api_route(one, api.patch, methods=["PATCH"], openapi_extra=partial, name="change_budget")
    routes.add_api_route(one, api.delete, methods=["DELETE"], status_code=204, name="delete_budget")
    routes.add_api_route(f"{one}/reset", api.reset, methods=["POST"], openapi_extra=reset, name="reset_budget")
    routes.add_api_route(f"{one}/top-up", api.top_up, methods=["POST"], openapi_extra=top_up, name="top_up_budget")
    return routes


def shown_budget(budget: Budget, now_ms: int) -> dict[str, object]:
    """A budget as answers show it."""
    period = period_at(budget.cadence, budget.zone, now_ms)
    return {
        **spec_of(budget),
        "source": budget.source,
        "revision": budget.revision,
        "createdAt": iso_utc(budget.created_ms),
        "updatedAt": iso_utc(budget.updated_ms),
        "topUps": [
            {
                "id": t.id,
                "period": t.period_id,
                "scopeKey": t.key,
                "amountUsd": format_usd(t.amount_nano),
                "expiresAt": iso_utc(t.expires_ms),
                "reason": t.reason,
                "at": iso_utc(t.at_ms),
            }
            for t in budget.top_ups
        ],
        "resets": [
            {"period": r.period_id, "scopeKey": r.key, "reason": r.reason, "at": iso_utc(r.at_ms)}
            for r in budget.resets
        ],
        "currentPeriod": {
            "id": period.id,
            "start": None if period.end_ms is None else iso_utc(period.start_ms),
            "end": iso_or_none(period.end_ms),
        },
    }
