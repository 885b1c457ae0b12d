"""Money: exact integers in, exact integers out, and nothing that is no amount."""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from math import ceil, floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidInput
from core.money import (
    MAX_LIMIT_NANO,
    NANO_PER_USD,
    charge_nano,
    format_usd,
    fraction_floor,
    parse_decimal,
    parse_price_pico,
    parse_usd_nano,
)

amounts_nano = st.integers(0, MAX_LIMIT_NANO)


@given(amounts_nano)
def test_what_is_printed_is_read_back(amount_nano: int) -> None:
    assert parse_usd_nano("limitUsd", format_usd(amount_nano)) == amount_nano


@given(st.integers(-(10**24), 10**24))
def test_dollars_are_printed_exactly_and_plainly(amount_nano: int) -> None:
    text = format_usd(amount_nano)
    assert Fraction(text) * NANO_PER_USD == amount_nano
    decimals = text.partition(".")[2]
    assert len(decimals) == 2 or (2 < len(decimals) <= 9 and not decimals.endswith("0"))
    assert "e" not in text.lower()


@pytest.mark.parametrize(
    ("amount_nano", "text"),
    [(0, "0.00"), (1, "0.000000001"), (1500, "0.0000015"), (12_500_000_000, "12.50"), (-1, "-0.000000001")],
)
def test_dollars_as_text(amount_nano: int, text: str) -> None:
    assert format_usd(amount_nano) == text


@given(st.decimals(0, 1_000_000, allow_nan=False, places=15))
def test_dollars_are_rounded_half_even_to_a_nano_dollar(usd: Decimal) -> None:
    expected = int((usd * NANO_PER_USD).to_integral_value(ROUND_HALF_EVEN))
    assert parse_usd_nano("x", str(usd)) == expected
    assert abs(Fraction(usd) * NANO_PER_USD - expected) <= Fraction(1, 2)


@pytest.mark.parametrize(
    ("usd", "nano"),
    [
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        ("0.0000000025", 2),
        (0.1, 100_000_000),
        (3, 3_000_000_000),
        (" 12.50 ", 12_500_000_000),
        ("1e-9", 1),
        ("1e3", 1_000_000_000_000),
        (Decimal("0.25"), 250_000_000),
        ("-0", 0),
    ],
)
def test_dollars_come_as_text_or_number(usd: object, nano: int) -> None:
    assert parse_usd_nano("x", usd) == nano


@pytest.mark.parametrize(
    "value",
    [
        "NaN", "sNaN", "-nan", "Infinity", "-inf", float("nan"), float("inf"), 1e308, "1e19", "1e999999", 10**19,
        True, False, None, [], {}, b"1", "", " ", "twelve", "1,000", "0x10", "$5", "1 2", object(),
    ],
)  # fmt: skip
def test_what_is_no_amount_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_decimal("limitUsd", value)
    assert (caught.value.field, caught.value.status) == ("limitUsd", 400)


@given(st.none() | st.booleans() | st.text() | st.floats() | st.integers() | st.decimals() | st.binary())
def test_anything_is_an_amount_in_range_or_refused(value: object) -> None:
    try:
        nano = parse_usd_nano("x", value)
    except InvalidInput:
        return
    assert 0 <= nano <= MAX_LIMIT_NANO


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (None, "must be a number, got NoneType"),
        ("twelve", "must be a decimal number such as 12.50"),
        ("NaN", "must be finite"),
        ("1e19", "is too large"),
        ("0." + "1" * 29, "must have at most 28 digits"),
    ],
)
def test_what_is_wrong_with_an_amount_is_said(value: object, rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_decimal("limitUsd", value)
    assert (caught.value.field, caught.value.rule) == ("limitUsd", rule)


def test_an_amount_has_at_most_28_digits_and_19_before_the_point() -> None:
    assert parse_decimal("x", "0." + "1" * 28) == Decimal("0." + "1" * 28)
    assert parse_decimal("x", "9" * 19) == Decimal("9" * 19)


@pytest.mark.parametrize("usd", ["-0.000000001", "-1", "9007199.254740992", "1e18"])
def test_a_limit_is_not_negative_and_below_2_to_the_53(usd: str) -> None:
    with pytest.raises(InvalidInput, match="must be at"):
        parse_usd_nano("x", usd)


def test_the_largest_limit_and_a_smallest() -> None:
    assert parse_usd_nano("x", "9007199.254740991") == MAX_LIMIT_NANO
    with pytest.raises(InvalidInput, match=r"at least 0.00000001 USD"):
        parse_usd_nano("x", "0.000000009", minimum_nano=10)


@given(st.decimals(0, 10_000, allow_nan=False, places=9))
def test_prices_are_rounded_up(usd_per_million: Decimal) -> None:
    exact = usd_per_million * 1_000_000
    assert parse_price_pico("x", str(usd_per_million)) == int(exact.to_integral_value(ROUND_CEILING))


def test_a_price_sheet() -> None:
    assert parse_price_pico("x", "0.75") == 750_000
    assert parse_price_pico("x", 2.25) == 2_250_000
    with pytest.raises(InvalidInput) as caught:
        parse_price_pico("outputPrice", "-0.01")
    assert (caught.value.field, caught.value.rule) == ("outputPrice", "must not be negative")


@given(st.integers(0, 10**30))
def test_a_charge_is_rounded_up_once(total_pico: int) -> None:
    assert charge_nano(total_pico) == ceil(Fraction(total_pico, 1000))


@given(amounts_nano, st.decimals(0, 100, allow_nan=False, places=6))
def test_a_cap_is_the_last_whole_amount_under_the_fraction(amount_nano: int, fraction: Decimal) -> None:
    cap = fraction_floor(amount_nano, fraction)
    assert cap == floor(amount_nano * Fraction(fraction))
    assert cap == int((amount_nano * fraction).to_integral_value(ROUND_FLOOR))
