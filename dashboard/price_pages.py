"""The page of models and prices: what is in force, what was and will be, and a form that sets a price."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from budget.codec import parse_spec
from core.errors import Conflict, InvalidInput
from core.period import parse_zone
from dashboard.budget_pages import Handler, Shower
from dashboard.deps import Deps
from dashboard.prices import PriceSpec, PriceStep, PriceWriter, price_steps
from dashboard.ranges import zone_of
from routing.model import Model
from telemetry.prices import Price, UnpricedModel

_RATES = ("input", "cachedInput", "cacheWrite", "output", "reasoning")
_FIELDS = ("model", *_RATES, "usdPerRequest", "effectiveFrom", "reason")
_NEW = dict.fromkeys(_FIELDS, "")


class PricePages:
    """The handlers."""

    def __init__(self, pages: Shower, deps: Deps) -> None:
        self._pages = pages
        self._deps = deps
        self._writer = PriceWriter(deps)

    async def all(self, request: Request) -> Response:
        """The models, their prices, and a form for an override."""
        await self._deps.refresh()
        given = _NEW | {name: text for name, text in request.query_params.items() if name in _FIELDS}
        return self._page(request, given, None)

    async def create(self, request: Request) -> Response:
        """An override."""
        form = await self._pages.posted(request)
        given = {name: form.get(name, "").strip() for name in _FIELDS}
        try:
            await self._writer.create(parse_spec(PriceSpec, _body(given, form.get("zone", "UTC"))))
        except (InvalidInput, Conflict) as error:
            return self._page(request, given, error, error.status)
        return _back()

    async def end(self, request: Request) -> Response:
        """The override holds no longer."""
        await self._pages.posted(request)
        await self._writer.end(request.path_params["override_id"])
        return _back()

    def _page(
        self, request: Request, given: dict[str, str], error: InvalidInput | Conflict | None, status: int = 200
    ) -> Response:
        models = self._deps.routes.models
        now = [(model, self._now(model)) for model in models]
        history = [(model, steps) for model in models if _changed(steps := price_steps(self._deps, model.name))]
        zone = zone_of(request.query_params, request.cookies)
        return self._pages.show(
            request, "models.html", status, now=now, history=history, given=given, error=error, zone=zone
        )

    def _now(self, model: Model) -> Price | None:
        try:
            return self._deps.prices.price_at(model.name, self._deps.clock.now_ms())
        except UnpricedModel:
            return None


def price_pages(pages: Shower, deps: Deps) -> Iterable[tuple[str, str, Handler]]:
    """Method, path and handler of each page."""
    view = PricePages(pages, deps)
    yield "GET", "/ui/models", view.all
    yield "POST", "/ui/models/prices", view.create
    yield "POST", "/ui/models/prices/{override_id}/end", view.end


def _changed(steps: Sequence[PriceStep]) -> bool:
    """Whether there is more to tell than the one price that has always been."""
    return len(steps) > 1 or any(step.override for step in steps)


def _back() -> Response:
    return RedirectResponse("/ui/models", 303)


def _body(given: dict[str, str], zone: str) -> dict[str, Any]:
    """The form as /api/prices takes it; what is empty is left out."""
    body: dict[str, Any] = {name: given[name] for name in ("model", "usdPerRequest", "reason") if given[name]}
    body["usdPerMillionTokens"] = {name: given[name] for name in _RATES if given[name]}
    if given["effectiveFrom"]:
        body["effectiveFrom"] = _with_zone(given["effectiveFrom"], parse_zone("zone", zone))
    return body


def _with_zone(text: str, zone: str) -> str:
    """A form's time in a time zone, as ISO 8601 that says so."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("effectiveFrom", "must be a time such as 2026-01-31T18:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=ZoneInfo(zone))).isoformat()
