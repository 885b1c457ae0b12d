"""Routes and prices from their files, checked together at the start."""

import os
from collections.abc import Mapping
from pathlib import Path

from core.errors import ConfigError
from routing.model import Routes
from routing.routes_file import default_routes_text, load_routes, prices_in
from spendgate.settings import Settings
from telemetry.prices import Price, PriceBook, UnpricedModel, default_prices_text, load_prices, prices_from
from telemetry.pricing import ceiling

#: What the default routes need from the environment while Databricks is simulated.
SIMULATED = {"DATABRICKS_BASE_URL": "http://simulated", "DATABRICKS_API_KEY": "simulated"}


def load_catalog(settings: Settings, environment: Mapping[str, str] = os.environ) -> tuple[Routes, PriceBook]:
    """The routes and the price book in force.

    Raises:
        ConfigError: a file can't be read, or breaks a rule that the message names.
    """
    text, source = _read(settings.routes, "SPENDGATE_ROUTES") or (default_routes_text(), "the default routes")
    routes = load_routes(text, source=source, environment=environment)
    prices: list[Price] = load_prices(default_prices_text(), source="the default prices")
    prices += prices_from(prices_in(text), source=source)
    own = _read(settings.prices, "SPENDGATE_PRICES")
    if own:
        prices += load_prices(own[0], source=own[1])
    return routes, PriceBook(prices)


def smallest_call_nano(routes: Routes, prices: PriceBook, now_ms: int) -> int:
    """The least that any chat call of these routes can hold: one token in and one out at the cheapest model."""
    costs = []
    for model in routes.models:
        try:
            most = ceiling(prices.price_at(model.name, now_ms), input_tokens_bound=1)
        except UnpricedModel:
            continue
        if model.kind == "chat":
            costs.append(most.base_nano - (-most.out_pico // 1000))
    return max(1, min(costs, default=1))


def _read(path: Path | None, setting: str) -> tuple[str, str] | None:
    if path is None:
        return None
    try:
        return path.read_text(), str(path)
    except OSError as error:
        raise ConfigError(f"{setting}: {path} can't be read: {error.strerror}") from None
