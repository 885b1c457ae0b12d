from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.money import charge_nano, format_usd
from telemetry.prices import Price
from telemetry.pricing import Ceiling, ceiling, cost_nano
from telemetry.usage import Tokens

DBRX = Price("dbrx", 0, 750_000, 750_000, 750_000, 2_250_000, 2_250_000, 0, "list")
#: All classes differ, none is a multiple of a thousand, and a call costs something by itself.
ODD = Price("odd", 0, 3_000_001, 300_007, 3_750_013, 15_000_017, 16_000_019, 5_000_000, "made up")


def bound_nano(most: Ceiling, tokens: int) -> int:
    """As the budget reckons it: ``base + ceil(tokens × out_pico / 1000)``."""
    return most.base_nano + charge_nano(tokens * most.out_pico)


@pytest.mark.parametrize(
    ("tokens", "usd"),
    [
        (Tokens(), "0.00"),
        (Tokens(input=1_000_000), "0.75"),
        (Tokens(output=1_000_000), "2.25"),
        (Tokens(input=1_000_000, output=1_000_000), "3.00"),
        (Tokens(input=1000, output=200), "0.0012"),  # 0.00075 + 0.00045
        (Tokens(input=1), "0.00000075"),
        (Tokens(input=12, output=34), "0.0000855"),  # 12 × 750 + 34 × 2250 = 85,500 nano-dollars
        (Tokens(input=4, cached_input=4, cache_write=4, output=30, reasoning=4), "0.0000855"),
    ],
)
def test_what_dbrx_costs(tokens: Tokens, usd: str) -> None:
    assert format_usd(cost_nano(DBRX, tokens)) == usd


@pytest.mark.parametrize(
    ("tokens", "nano"),
    [
        (Tokens(), 5_000_000),
        (Tokens(input=1), 5_003_001),  # 3,000.001 nano-dollars, rounded up
        (Tokens(cached_input=1), 5_000_301),
        (Tokens(cache_write=1), 5_003_751),
        (Tokens(output=1), 5_015_001),
        (Tokens(reasoning=1), 5_016_001),
        # 3,000,001 + 300,007 + 3,750,013 + 15,000,017 + 16,000,019 = 38,050,057: rounded up once, not five times
        (Tokens(1, 1, 1, 1, 1), 5_038_051),
        (Tokens(1000, 1000, 1000, 1000, 1000), 5_000_000 + 38_050_057),
    ],
)
def test_each_class_has_its_price_and_the_sum_is_rounded_up_once(tokens: Tokens, nano: int) -> None:
    assert cost_nano(ODD, tokens) == nano


def test_a_ceiling_by_hand() -> None:
    assert ceiling(DBRX, input_tokens_bound=100) == Ceiling(base_nano=75_000, out_pico=2_250_000)
    assert ceiling(DBRX, input_tokens_bound=100, choices=3) == Ceiling(base_nano=75_000, out_pico=6_750_000)
    # The dearest input is writing to the cache, 3,750,013 pico-dollars; the dearest output is reasoning.
    assert ceiling(ODD, input_tokens_bound=1) == Ceiling(base_nano=5_000_000 + 3751, out_pico=16_000_019)
    assert ceiling(ODD, input_tokens_bound=0) == Ceiling(base_nano=5_000_000, out_pico=16_000_019)


def test_cached_input_that_is_dearer_bounds_too() -> None:
    dear = replace(DBRX, cached_input_pico=9_000_000)
    assert ceiling(dear, input_tokens_bound=1).base_nano == 9_000


RATE = st.integers(0, 10**9)
PRICE = st.builds(
    Price,
    model=st.just("m"),
    effective_from_ms=st.just(0),
    input_pico=RATE,
    cached_input_pico=RATE,
    cache_write_pico=RATE,
    output_pico=RATE,
    reasoning_pico=RATE,
    request_nano=st.integers(0, 10**9),
    source=st.just(""),
)
COUNT = st.integers(0, 200_000)


@given(
    price=PRICE, used=st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT), choices=st.integers(1, 8), data=st.data()
)
def test_no_usage_within_the_bounds_costs_more_than_the_ceiling(
    price: Price, used: Tokens, choices: int, data: st.DataObject
) -> None:
    input_bound = used.all_input + data.draw(st.integers(0, 3))
    tokens = -(-used.all_output // choices) + data.draw(st.integers(0, 3))  # per choice
    most = ceiling(price, input_tokens_bound=input_bound, choices=choices)
    assert cost_nano(price, used) <= bound_nano(most, tokens)


@given(price=PRICE, input_bound=COUNT, tokens=COUNT)
def test_the_ceiling_is_no_looser_than_it_must_be(price: Price, input_bound: int, tokens: int) -> None:
    """All input and all output at their dearest class cost the ceiling, but for one more rounding up."""
    dear_in = max(price.input_pico, price.cached_input_pico, price.cache_write_pico)
    dear_out = max(price.output_pico, price.reasoning_pico)
    dearest = replace(price, input_pico=dear_in, output_pico=dear_out)
    cost = cost_nano(dearest, Tokens(input=input_bound, output=tokens))
    assert 0 <= bound_nano(ceiling(price, input_tokens_bound=input_bound), tokens) - cost <= 1


@given(price=PRICE, used=st.builds(Tokens, COUNT, COUNT, COUNT, COUNT, COUNT))
def test_a_cost_is_exact_up_to_one_nano_dollar(price: Price, used: Tokens) -> None:
    exact_pico = (
        price.input_pico * used.input
        + price.cached_input_pico * used.cached_input
        + price.cache_write_pico * used.cache_write
        + price.output_pico * used.output
        + price.reasoning_pico * used.reasoning
    )
    assert 0 <= (cost_nano(price, used) - price.request_nano) * 1000 - exact_pico < 1000
