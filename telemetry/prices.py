"""The price book: dated prices as data, never code, and overrides that people set. A model without a price is refused,
never free.
"""

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

#: Classes of tokens that have a price each.
RATES = ("input", "cached_input", "cache_write", "output", "reasoning")


class UnpricedModel(SpendgateError):
    """A model is in the routes but not in the price book, so its calls can't be held for."""

    status = 400
    code = "unpriced_model"


@value
class Price:
    """What a model costs from `effective_from_ms` on, in pico-dollars per token of each class.

    request_nano: nano-dollars per call, besides its tokens.
    source: where the price was read; of an override, who set it.
    override_id: of the override that sets it; empty: it is from a file.
    version: names this price in cost records: ``<model>@<date>``, or ``<model>@<id of the override>``.
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
    override_id: str = ""
    version: str = field(init=False, compare=False)
    wire: bytes = field(init=False, compare=False)
    dearest_input_pico: int = field(init=False, compare=False)
    dearest_output_pico: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        began = f"{datetime.fromtimestamp(self.effective_from_ms / 1000, UTC):%Y-%m-%d}"
        put("version", f"{self.model}@{self.override_id or began}")
        rates = {name: getattr(self, f"{name}_pico") for name in RATES}
        put("wire", json.dumps(rates | {"request_nano": self.request_nano}).encode())
        put("dearest_input_pico", max(self.input_pico, self.cached_input_pico, self.cache_write_pico))
        put("dearest_output_pico", max(self.output_pico, self.reasoning_pico))


@value
class Override:
    """A price that a person set. It goes before the dated prices from its `effective_from_ms` to `ends_ms`, exclusive
    (None: it has no end); of several, the one that began last.

    reason: why, for the record. revision: of its document in the store.
    """

    price: Price
    ends_ms: int | None
    reason: str
    created_ms: int
    revision: int = 0

    @property
    def id(self) -> str:
        """Names it in cost records, too."""
        return self.price.override_id

    def holds(self, at_ms: int) -> bool:
        """Whether it is neither still to come nor over."""
        return self.price.effective_from_ms <= at_ms and (self.ends_ms is None or at_ms < self.ends_ms)


class PriceBook:
    """Prices by model and instant.

    changes: counts up when an override comes, changes or goes; who keeps prices for later looks whether it moved.
    """

    def __init__(self, prices: Iterable[Price]) -> None:
        self.changes = 0
        self._dated: dict[str, list[Price]] = {}
        self._overrides: dict[str, Override] = {}
        for price in sorted(prices, key=lambda p: p.effective_from_ms):
            self._dated.setdefault(price.model, []).append(price)
        #: By model: what comes into force when; None: nothing does, and the model has no price.
        self._lines = {model: self._line(model) for model in self._dated}

    def price_at(self, model: str, at_ms: int) -> Price:
        """The price in force for a model's name at an instant.

        Raises:
            UnpricedModel: there is none.
        """
        line = self._lines.get(model, [])
        index = bisect_right(line, at_ms, key=lambda step: step[0])
        price = line[index - 1][1] if index else None
        if price is None:
            raise UnpricedModel(f"the model {model} has no price; add one to the price book before it is used")
        return price

    def next_change_ms(self, at_ms: int) -> int | None:
        """When the next price comes into force after an instant; None: no more."""
        coming = (from_ms for line in self._lines.values() for from_ms, _ in line)
        return min((ms for ms in coming if ms > at_ms), default=None)

    def history(self, model: str) -> list[Price]:
        """All dated prices of a model, oldest first."""
        return list(self._dated.get(model, []))

    def overrides(self, model: str | None = None) -> list[Override]:
        """Those of a model, or all, by when they begin; past ones too."""
        found = (o for o in self._overrides.values() if model in (None, o.price.model))
        return sorted(found, key=_began)

    def put(self, override: Override) -> None:
        """Add an override, or replace it by its newer form."""
        self._overrides[override.id] = override
        self._lines[override.price.model] = self._line(override.price.model)
        self.changes += 1

    def remove(self, override_id: str) -> None:
        """Forget an override; one that is not there is no error."""
        gone = self._overrides.pop(override_id, None)
        if gone:
            self._lines[gone.price.model] = self._line(gone.price.model)
            self.changes += 1

    def _line(self, model: str) -> list[tuple[int, Price | None]]:
        dated, overrides = self._dated.get(model, []), self.overrides(model)
        ends = {o.ends_ms for o in overrides if o.ends_ms is not None}
        instants = {p.effective_from_ms for p in [*dated, *(o.price for o in overrides)]} | ends
        line: list[tuple[int, Price | None]] = []
        for at_ms in sorted(instants):
            known = [p for p in dated if p.effective_from_ms <= at_ms]
            known += [o.price for o in overrides if o.holds(at_ms)]
            line.append((at_ms, known[-1] if known else None))
        return line


def _began(override: Override) -> tuple[int, int, str]:
    return override.price.effective_from_ms, override.created_ms, override.id


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
        if name not in RATES:
            raise InvalidInput(f"usd_per_million_tokens.{name}", f"is not known; known: {', '.join(RATES)}")
    return price_of(
        entry["model"],
        _date_ms(entry.get("effective_from")),
        {n: parse_price_pico(f"usd_per_million_tokens.{n}", v) for n, v in rates.items()},
        request_nano=parse_usd_nano("usd_per_request", entry.get("usd_per_request", 0)),
        source=str(entry.get("source", "")),
    )


def price_of(
    model: str,
    effective_from_ms: int,
    pico: Mapping[str, int],
    *,
    request_nano: int,
    source: str,
    override_id: str = "",
) -> Price:
    """A price from some of its rates, in pico-dollars per token: cached input and cache writes cost what input does,
    and reasoning what output does, unless they say otherwise. pico: has at least ``input``.
    """
    return Price(
        model=model,
        effective_from_ms=effective_from_ms,
        input_pico=pico["input"],
        cached_input_pico=pico.get("cached_input", pico["input"]),
        cache_write_pico=pico.get("cache_write", pico["input"]),
        output_pico=pico.get("output", 0),
        reasoning_pico=pico.get("reasoning", pico.get("output", 0)),
        request_nano=request_nano,
        source=source,
        override_id=override_id,
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
