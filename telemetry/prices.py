"""The price book: dated prices as data, never code. A model without a price is refused, never free."""

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import UTC, date, datetime
from importlib.resources import files
from typing import Any

import yaml

from core.errors import ConfigError, InvalidInput, SpendgateError
from core.money import parse_price_pico, parse_usd_nano
from core.values import value

_RATES = ("input", "cached_input", "cache_write", "output", "reasoning")


class UnpricedModel(SpendgateError):
    """A model is in the routes but not in the price book, so its calls can't be held for."""

    status = 400
    code = "unpriced_model"


@value
class Price:
    """What a model costs from `effective_from_ms` on, in pico-dollars per token of each class.

    request_nano: nano-dollars per call, besides its tokens.
    source: where the price was read.
    version: names this price in cost records: ``<model>@<date>``.
    wire: JSON of the pico-dollars per token of each class, and of the nano-dollars per call, for cost records.
    dearest_input_pico, dearest_output_pico: of the classes that a token sent, or made, can be of.
    """

    model: str
    effective_from_ms: int
    input_pico: int
    cached_input_pico: int
    cache_write_pico: int
    output_pico: int
    reasoning_pico: int
    request_nano: int
    source: str
    version: str = field(init=False, compare=False)
    wire: bytes = field(init=False, compare=False)
    dearest_input_pico: int = field(init=False, compare=False)
    dearest_output_pico: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("version", f"{self.model}@{datetime.fromtimestamp(self.effective_from_ms / 1000, UTC):%Y-%m-%d}")
        rates = {name: getattr(self, f"{name}_pico") for name in _RATES}
        put("wire", json.dumps(rates | {"request_nano": self.request_nano}).encode())
        put("dearest_input_pico", max(self.input_pico, self.cached_input_pico, self.cache_write_pico))
        put("dearest_output_pico", max(self.output_pico, self.reasoning_pico))


class PriceBook:
    """Prices by model and date. Immutable."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._by_model: dict[str, list[Price]] = {}
        for price in sorted(prices, key=lambda p: p.effective_from_ms):
            self._by_model.setdefault(price.model, []).append(price)

    def price_at(self, model: str, at_ms: int) -> Price:
        """The price in force for a model's name at an instant.

        Raises:
            UnpricedModel: there is none.
        """
        dated = self._by_model.get(model, [])
        index = bisect_right(dated, at_ms, key=lambda p: p.effective_from_ms)
        if not index:
            raise UnpricedModel(f"the model {model} has no price; add one to the price book before it is used")
        return dated[index - 1]

    def next_change_ms(self, at_ms: int) -> int | None:
        """When the next price comes into force after an instant; None: no more."""
        coming = (p.effective_from_ms for dated in self._by_model.values() for p in dated)
        return min((ms for ms in coming if ms > at_ms), default=None)

    def history(self, model: str) -> list[Price]:
        """All prices of a model, oldest first."""
        return list(self._by_model.get(model, []))


_KNOWN = {"model", "effective_from", "source", "usd_per_million_tokens", "usd_per_request"}


def default_prices_text() -> str:
    """The YAML of public list prices that ships with the product."""
    return files("telemetry").joinpath("prices.default.yaml").read_text()


def load_prices(text: str, *, source: str) -> list[Price]:
    """Prices from YAML (`prices:`, a list).

    Raises:
        ConfigError: names the entry, the field and the rule.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None
    if not isinstance(data, Mapping) or not isinstance(data.get("prices"), list):
        raise ConfigError(f"{source}: prices must be a list")
    return prices_from(data["prices"], source=source)


def prices_from(entries: Iterable[Mapping[str, Any]], *, source: str) -> list[Price]:
    """Prices from parsed entries, as in the price book's file.

    Raises:
        ConfigError: names the entry, the field and the rule.
    """
    prices = []
    for number, entry in enumerate(entries):
        try:
            prices.append(_price(entry))
        except InvalidInput as error:
            raise ConfigError(f"{source}: prices[{number}].{error.field} {error.rule}") from None
    return prices


def _price(entry: Mapping[str, Any]) -> Price:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("model"), str):
        raise InvalidInput("model", "must be a name")
    for name in entry:
        if name not in _KNOWN:
            raise InvalidInput(str(name), f"is not known; known fields: {', '.join(sorted(_KNOWN))}")
    rates = entry.get("usd_per_million_tokens")
    if not isinstance(rates, Mapping) or "input" not in rates:
        raise InvalidInput("usd_per_million_tokens", "must be a map with at least input")
    for name in rates:
        if name not in _RATES:
            raise InvalidInput(f"usd_per_million_tokens.{name}", f"is not known; known: {', '.join(_RATES)}")
    pico = {n: parse_price_pico(f"usd_per_million_tokens.{n}", v) for n, v in rates.items()}
    input_pico, output_pico = pico["input"], pico.get("output", 0)
    return Price(
        model=entry["model"],
        effective_from_ms=_date_ms(entry.get("effective_from")),
        input_pico=input_pico,
        cached_input_pico=pico.get("cached_input", input_pico),
        cache_write_pico=pico.get("cache_write", input_pico),
        output_pico=output_pico,
        reasoning_pico=pico.get("reasoning", output_pico),
        request_nano=parse_usd_nano("usd_per_request", entry.get("usd_per_request", 0)),
        source=str(entry.get("source", "")),
    )


def _date_ms(value: object) -> int:
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            value = None
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()) * 1000
    raise InvalidInput("effective_from", "must be a date such as 2026-01-31")
