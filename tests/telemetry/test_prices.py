from datetime import UTC, datetime
from typing import Any

import pytest

from core.errors import ConfigError
from routing.routes_file import default_routes_text, load_routes
from telemetry.prices import Price, PriceBook, UnpricedModel, default_prices_text, load_prices, prices_from

ENTRY: dict[str, Any] = {
    "model": "m",
    "effective_from": "2026-01-31",
    "source": "a price sheet",
    "usd_per_million_tokens": {"input": "0.75", "output": "2.25"},
}


def at_ms(year: int, month: int, day: int, hour: int = 0) -> int:
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1000


def read(**changes: Any) -> Price:
    return prices_from([ENTRY | changes], source="x")[0]


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        prices_from([ENTRY, ENTRY | changes], source="prices.yaml")
    said = caught.value.message
    assert said.startswith("prices.yaml: prices[1].")
    return said.removeprefix("prices.yaml: prices[1].")


def test_an_entry() -> None:
    """0.75 dollars per million tokens are 0.75 micro-dollars, or 750,000 pico-dollars, per token."""
    assert read() == Price(
        model="m",
        effective_from_ms=at_ms(2026, 1, 31),
        input_pico=750_000,
        cached_input_pico=750_000,
        cache_write_pico=750_000,
        output_pico=2_250_000,
        reasoning_pico=2_250_000,
        request_nano=0,
        source="a price sheet",
    )


def test_every_class() -> None:
    rates = {"input": 3, "cached_input": "0.30", "cache_write": 3.75, "output": "15", "reasoning": "16"}
    price = read(usd_per_million_tokens=rates, usd_per_request="0.005")
    assert (price.input_pico, price.cached_input_pico, price.cache_write_pico) == (3_000_000, 300_000, 3_750_000)
    assert (price.output_pico, price.reasoning_pico, price.request_nano) == (15_000_000, 16_000_000, 5_000_000)


def test_an_embedding_model_has_no_output() -> None:
    price = read(usd_per_million_tokens={"input": "0.13"})
    assert (price.input_pico, price.output_pico, price.reasoning_pico) == (130_000, 0, 0)


def test_a_version_names_model_and_date() -> None:
    assert read().version == "m@2026-01-31"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": None}, "model "),
        ({"model": 7}, "model "),
        ({"modle": "m"}, "modle is not known"),
        ({"effective_from": None}, "effective_from "),
        ({"effective_from": "31.1.2026"}, "effective_from "),
        ({"effective_from": 2026}, "effective_from "),
        ({"usd_per_million_tokens": None}, "usd_per_million_tokens "),
        ({"usd_per_million_tokens": {"output": "1"}}, "usd_per_million_tokens "),
        ({"usd_per_million_tokens": {"input": "1", "outptu": "1"}}, "usd_per_million_tokens.outptu "),
        ({"usd_per_million_tokens": {"input": "-1"}}, "usd_per_million_tokens.input "),
        ({"usd_per_million_tokens": {"input": "NaN"}}, "usd_per_million_tokens.input "),
        ({"usd_per_million_tokens": {"input": "cheap"}}, "usd_per_million_tokens.input "),
        ({"usd_per_million_tokens": {"input": True}}, "usd_per_million_tokens.input "),
        ({"usd_per_million_tokens": {"input": "1", "output": None}}, "usd_per_million_tokens.output "),
        ({"usd_per_request": "-0.01"}, "usd_per_request "),
        ({"usd_per_request": "inf"}, "usd_per_request "),
    ],
)
def test_a_mistake_is_named_by_entry_and_field(changes: dict[str, Any], said: str) -> None:
    assert refusal(**changes).startswith(said)


@pytest.mark.parametrize("entry", [None, 7, "m", []])
def test_an_entry_that_is_none(entry: Any) -> None:
    with pytest.raises(ConfigError, match=r"x: prices\[0\]\.model "):
        prices_from([entry], source="x")


@pytest.mark.parametrize("text", ["", "[]", "7", "prices:", "prices: {}", "prize: []", "x: [", "prices: ["])
def test_a_file_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^prices\.yaml"):
        load_prices(text, source="prices.yaml")


def test_a_file() -> None:
    text = """
prices:
  - {model: m, effective_from: 2026-01-31, usd_per_million_tokens: {input: 0.1}}
  - {model: m, effective_from: "2026-02-01", usd_per_million_tokens: {input: "0.2"}}
"""
    assert [p.input_pico for p in load_prices(text, source="x")] == [100_000, 200_000]
    assert load_prices("prices: []", source="x") == []


BOOK = PriceBook(
    [
        read(effective_from="2026-03-01", usd_per_million_tokens={"input": "3"}),
        read(effective_from="2026-01-01", usd_per_million_tokens={"input": "1"}),
        read(effective_from="2026-02-01", usd_per_million_tokens={"input": "2"}),
        read(effective_from="2026-02-01", usd_per_million_tokens={"input": "9"}),  # the later of equal dates
        read(model="other"),
    ]
)


@pytest.mark.parametrize(
    ("instant_ms", "dollars"),
    [
        (at_ms(2026, 1, 1), 1),
        (at_ms(2026, 1, 31, 23), 1),
        (at_ms(2026, 2, 1) - 1, 1),
        (at_ms(2026, 2, 1), 9),
        (at_ms(2026, 3, 1) - 1, 9),
        (at_ms(2026, 3, 1), 3),
        (at_ms(2030, 1, 1), 3),
    ],
)
def test_the_price_in_force(instant_ms: int, dollars: int) -> None:
    assert BOOK.price_at("m", instant_ms).input_pico == dollars * 1_000_000


@pytest.mark.parametrize(("model", "instant_ms"), [("gone", at_ms(2026, 2, 1)), ("m", at_ms(2026, 1, 1) - 1)])
def test_without_a_price_nothing_is_free(model: str, instant_ms: int) -> None:
    with pytest.raises(UnpricedModel) as caught:
        BOOK.price_at(model, instant_ms)
    assert (caught.value.status, caught.value.code) == (400, "unpriced_model")
    assert model in caught.value.message


def test_the_history_is_kept() -> None:
    assert [p.input_pico // 1_000_000 for p in BOOK.history("m")] == [1, 2, 9, 3]
    assert BOOK.history("gone") == []


#: Dollars per million tokens, in and out, from the list prices in the design's wire facts.
LIST = {
    "databricks-dbrx-instruct": (750_000, 2_250_000),
    "databricks-mixtral-8x7b-instruct": (500_000, 1_000_000),
    "databricks-meta-llama-3-3-70b-instruct": (500_000, 1_500_000),
    "databricks-meta-llama-3-1-8b-instruct": (150_000, 450_000),
    "databricks-gpt-oss-20b": (70_000, 300_000),
}


def test_the_prices_that_ship() -> None:
    book = PriceBook(load_prices(default_prices_text(), source="the default prices"))
    for model, rates in LIST.items():
        price = book.price_at(model, at_ms(2026, 11, 23))
        assert (price.input_pico, price.output_pico) == rates
        assert price.source


def test_every_model_of_the_default_routes_has_a_price() -> None:
    environment = {"DATABRICKS_BASE_URL": "http://x", "DATABRICKS_API_KEY": "k"}
    routes = load_routes(default_routes_text(), source="the default routes", environment=environment)
    book = PriceBook(load_prices(default_prices_text(), source="the default prices"))
    for model in routes.models:
        assert book.price_at(model.name, at_ms(2026, 11, 23)).input_pico > 0
