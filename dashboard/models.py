"""GET /api/models: what can be called, and what it costs."""

from fastapi import APIRouter, Response

from core.money import PICO_PER_NANO
from dashboard.deps import Deps
from dashboard.wire import answer, usd
from routing.model import Model
from telemetry.prices import Price, UnpricedModel


def router(deps: Deps) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["models"])

    @routes.get("/models")
    async def list_models() -> Response:
        """The models in the routes, preferred first, with the price in force now."""
        now_ms = deps.clock.now_ms()
        return answer({"models": [shown_model(deps, model, now_ms) for model in deps.routes.models]})

    return routes


def shown_model(deps: Deps, model: Model, now_ms: int) -> dict[str, object]:
    """A model as answers show it."""
    shown: dict[str, object] = {
        "name": model.name,
        "kind": model.kind,
        "role": model.role.value,
        "priority": model.priority,
        "aliases": list(model.aliases),
        "endpoint": model.endpoint,
        "endpointKind": deps.routes.endpoints[model.endpoint].kind,
        "maxOutputTokens": model.max_output_tokens,
    }
    try:
        return shown | {"priced": True} | rates_of(deps.prices.price_at(model.name, now_ms))
    except UnpricedModel:
        return shown | {"priced": False}


def rates_of(price: Price) -> dict[str, object]:
    """A price as JSON, in dollars."""
    rates_pico = {
        "input": price.input_pico,
        "cachedInput": price.cached_input_pico,
        "cacheWrite": price.cache_write_pico,
        "output": price.output_pico,
        "reasoning": price.reasoning_pico,
    }
    return {
        # 1 pico-dollar per token is 1 micro-dollar, 1,000 nano-dollars, per million tokens
        "usdPerMillionTokens": {name: usd(pico * PICO_PER_NANO) for name, pico in rates_pico.items()},
        "usdPerRequest": usd(price.request_nano),
        "priceVersion": price.version,
        "source": price.source,
    }
