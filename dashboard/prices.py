"""/api/prices: what models cost and have cost, and overrides: prices that a person sets from an instant on.

An override is a document of the snapshot that budgets and keys are in, so the next call on any worker is charged by it.
Calls that were charged before keep their price: no override begins in the past, and one that was in force is ended,
never deleted.

Failure policy: a write that the store refuses changes nothing and is the caller's error. After a write that went
through, a failing refresh is not an error: the watcher of the snapshot brings the change soon.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from budget.codec import parse_spec
from core.clock import iso_utc
from core.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from core.money import PICO_PER_TOKEN_PER_USD_PER_MILLION, parse_price_pico, parse_usd_nano
from dashboard.deps import Deps
from dashboard.models import rates_of
from dashboard.specs import instant_ms
from dashboard.wire import answer, documented_body, iso_or_none, read_json
from telemetry.overrides import PRICE_KIND, dump_override
from telemetry.prices import Override, Price, UnpricedModel, price_of

_TRIES = 20
_MOST_USD_PER_MILLION = 1_000_000
Money = str | int | float


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class RatesSpec(_Wire):
    """US dollars per million tokens. Left out: cached input and cache writes cost what input does, reasoning what
    output does, and output nothing.
    """

    input: Money
    cached_input: Money | None = None
    cache_write: Money | None = None
    output: Money | None = None
    reasoning: Money | None = None


class PriceSpec(_Wire):
    """A price override. effectiveFrom, endsAt: ISO 8601 with a zone; left out: now, and never."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    usd_per_million_tokens: RatesSpec
    usd_per_request: Money = 0
    effective_from: str | None = None
    ends_at: str | None = None
    reason: Annotated[str, Field(min_length=1, max_length=500)]


@dataclass(frozen=True, slots=True)
class PriceStep:
    """A price in a model's history. word: in force, over, to come, withdrawn or set aside. override: None: it is from
    a file.
    """

    price: Price
    override: Override | None
    word: str


class PriceWriter:
    """The one way by which this surface writes overrides."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def create(self, spec: PriceSpec) -> Override:
        """Store a new override.

        Raises:
            InvalidInput: a field breaks a rule, or the routes do not know the model.
        """
        override = override_of(self._deps, spec)
        revision = await self._put(override, expected=0)
        return replace(override, revision=revision)

    async def end(self, override_id: str) -> Override:
        """Let an override hold no longer; one that has not begun never will. One that is over stays as it is.

        Raises:
            NotFound: there is no such override.
            Conflict: others kept changing it.
        """
        for _ in range(_TRIES):
            await self._deps.refresh()
            found = next((o for o in self._deps.prices.overrides() if o.id == override_id), None)
            if found is None:
                raise NotFound(f"there is no price override {override_id}")
            ends_ms = max(self._deps.clock.now_ms(), found.price.effective_from_ms)
            if found.ends_ms is not None and found.ends_ms <= ends_ms:
                return found
            ended = replace(found, ends_ms=ends_ms)
            try:
                revision = await self._put(ended, expected=found.revision)
            except Conflict:
                continue
            return replace(ended, revision=revision)
        raise Conflict(f"the override {override_id} keeps being changed by others; try again")

    async def _put(self, override: Override, *, expected: int) -> int:
        documents = self._deps.documents
        revision = await documents.put(PRICE_KIND, override.id, dump_override(override), expected=expected)
        with contextlib.suppress(StoreUnavailable):  # the write is done; repeating it would do it twice
            await self._deps.refresh()
        return revision


class PricesApi:
    """The handlers."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self._writer = PriceWriter(deps)

    async def all(self, model: Annotated[str | None, Query(description="a model's name")] = None) -> Response:
        """Every price of the models in the routes, oldest first: from the files, and overrides."""
        await self._deps.refresh()
        names = [m.name for m in self._deps.routes.models if model in (None, m.name)]
        return answer({"prices": [row for name in names for row in self._of_model(name)]})

    async def create(self, request: Request) -> Response:
        """An override, from now on or from an instant to come."""
        override = await self._writer.create(parse_spec(PriceSpec, await read_json(request)))
        return answer(self._shown(override.price, override), 201)

    async def end(self, override_id: str) -> Response:
        """The override holds no longer; the price before it comes back."""
        override = await self._writer.end(override_id)
        return answer(self._shown(override.price, override))

    def _of_model(self, name: str) -> list[dict[str, Any]]:
        book = self._deps.prices
        rows: list[tuple[Price, Override | None]] = [(price, None) for price in book.history(name)]
        rows += [(override.price, override) for override in book.overrides(name)]
        return [self._shown(*row) for row in sorted(rows, key=lambda row: row[0].effective_from_ms)]

    def _shown(self, price: Price, override: Override | None) -> dict[str, Any]:
        shown = {
            "model": price.model,
            **rates_of(price),
            "effectiveFrom": iso_utc(price.effective_from_ms),
            "inForce": price.version == version_now(self._deps, price.model),
        }
        if override is None:
            return shown
        return shown | {
            "id": override.id,
            "endsAt": iso_or_none(override.ends_ms),
            "reason": override.reason,
            "createdAt": iso_utc(override.created_ms),
        }


def router(deps: Deps) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/prices", tags=["prices"])
    api = PricesApi(deps)
    body = documented_body(PriceSpec)
    routes.add_api_route("", api.all, methods=["GET"], name="list_prices")
    routes.add_api_route("", api.create, methods=["POST"], status_code=201, openapi_extra=body, name="create_price")
    routes.add_api_route("/{override_id}/end", api.end, methods=["POST"], name="end_price")
    return routes


def version_now(deps: Deps, model: str) -> str | None:
    """The version of a model's price in force; None: it has none."""
    try:
        return deps.prices.price_at(model, deps.clock.now_ms()).version
    except UnpricedModel:
        return None


def price_steps(deps: Deps, model: str) -> list[PriceStep]:
    """Every price that a model has, had or will have, newest first."""
    now_ms, version = deps.clock.now_ms(), version_now(deps, model)
    steps = [PriceStep(price, None, _word(price, None, version, now_ms)) for price in deps.prices.history(model)]
    steps += [PriceStep(o.price, o, _word(o.price, o, version, now_ms)) for o in deps.prices.overrides(model)]
    return sorted(steps, key=lambda step: step.price.effective_from_ms, reverse=True)


def _word(price: Price, override: Override | None, version: str | None, now_ms: int) -> str:
    if price.version == version:
        return "in force"
    if override and override.ends_ms is not None and override.ends_ms <= price.effective_from_ms:
        return "withdrawn"
    if price.effective_from_ms > now_ms:
        return "to come"
    if override is None or override.holds(now_ms):
        return "set aside"
    return "over"


def override_of(deps: Deps, spec: PriceSpec) -> Override:
    """The override that a spec asks for, with an id of its own.

    Raises:
        InvalidInput: a field breaks a rule, or the routes do not know the model.
    """
    now_ms = deps.clock.now_ms()
    try:
        model = deps.routes.find(spec.model).name
    except NotFound as error:
        raise InvalidInput("model", f"is not in the routes: {error.message}") from None
    from_ms = now_ms if spec.effective_from is None else instant_ms("effectiveFrom", spec.effective_from)
    ends_ms = None if spec.ends_at is None else instant_ms("endsAt", spec.ends_at)
    if from_ms < now_ms:
        raise InvalidInput("effectiveFrom", "must not be in the past: calls keep the price that they were charged at")
    if ends_ms is not None and ends_ms <= from_ms:
        raise InvalidInput("endsAt", "must be after effectiveFrom")
    given = spec.usd_per_million_tokens.model_dump(exclude_none=True)
    price = price_of(
        model,
        from_ms,
        _pico(given),
        request_nano=parse_usd_nano("usdPerRequest", spec.usd_per_request),
        source="override",
        override_id=deps.ids.new("prc"),
    )
    return Override(price, ends_ms, spec.reason, now_ms)


def _pico(given: Mapping[str, Money]) -> dict[str, int]:
    """Pico-dollars per token of each class that is given."""
    pico = {}
    for name, usd in given.items():
        field = f"usdPerMillionTokens.{to_camel(name)}"
        pico[name] = parse_price_pico(field, usd)
        if pico[name] > _MOST_USD_PER_MILLION * PICO_PER_TOKEN_PER_USD_PER_MILLION:
            raise InvalidInput(field, f"must be at most {_MOST_USD_PER_MILLION:,} USD")
    return pico
