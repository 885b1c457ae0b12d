"""The simulator's own bill at the list prices: the truth that our books are checked against."""

from collections.abc import Iterator
from typing import Any

from core.clock import SystemClock
from core.money import charge_nano
from telemetry.prices import PriceBook, default_prices_text, load_prices

_PRICES = PriceBook(load_prices(default_prices_text(), source="test"))


def bill_nano(bill: dict[str, Any], **context: str) -> int:
    """What the recent calls cost in nano-dollars, each rounded up by itself; those with this usage context only."""
    return sum(nano for _, nano in _billed(bill, context))


def bill_by_hold(bill: dict[str, Any], **context: str) -> dict[str, int]:
    """The same by the hold that each call was made under; what was billed nothing is left out."""
    by_hold: dict[str, int] = {}
    for hold_id, nano in _billed(bill, context):
        if nano:
            by_hold[hold_id] = by_hold.get(hold_id, 0) + nano
    return by_hold


def _billed(bill: dict[str, Any], context: dict[str, str]) -> Iterator[tuple[str, int]]:
    for call in bill["client_request_ids"]:
        # Without a usage context the body never arrived whole: nothing was made, and nothing was billed.
        if all((call["usage_context"] or {}).get(k) == v for k, v in context.items()):
            price = _PRICES.price_at(call["model"], SystemClock().now_ms())
            pico = call["prompt_tokens"] * price.input_pico + call["completion_tokens"] * price.output_pico
            yield call["client_request_id"], charge_nano(pico)
