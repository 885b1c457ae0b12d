"""The simulator's own bill at the list prices: the truth that our books are checked against."""

from typing import Any

from core.clock import SystemClock
from core.money import charge_nano
from telemetry.prices import PriceBook, default_prices_text, load_prices

_PRICES = PriceBook(load_prices(default_prices_text(), source="test"))


def bill_nano(bill: dict[str, Any], **context: str) -> int:
    """What the recent calls cost in nano-dollars, each rounded up by itself; those with this usage context only."""
    total = 0
    for call in bill["client_request_ids"]:
        if all(call["usage_context"].get(k) == v for k, v in context.items()):
            price = _PRICES.price_at(call["model"], SystemClock().now_ms())
            pico = call["prompt_tokens"] * price.input_pico + call["completion_tokens"] * price.output_pico
            total += charge_nano(pico)
    return total
