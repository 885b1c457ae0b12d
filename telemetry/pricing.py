"""The most that a call can cost, before; what it did cost, after. Integers; rounded up once, after summing."""

from core.money import charge_nano
from core.values import value
from telemetry.prices import Price
from telemetry.usage import Tokens


@value
class Ceiling:
    """``base_nano + ceil(tokens × out_pico / 1000)`` bounds a call that may generate `tokens` per choice."""

    base_nano: int
    out_pico: int


def ceiling(price: Price, *, input_tokens_bound: int, choices: int = 1) -> Ceiling:
    """The bound for a call: every input token at the dearest class, `choices` answers of output each.

    Rounding both parts up makes it at least what `cost_nano` gives for any usage within the bounds.
    """
    return Ceiling(
        base_nano=charge_nano(input_tokens_bound * price.dearest_input_pico) + price.request_nano,
        out_pico=price.dearest_output_pico * choices,
    )


def cost_nano(price: Price, tokens: Tokens) -> int:
    """What these tokens cost, in nano-dollars."""
    total_pico = (
        tokens.input * price.input_pico
        + tokens.cached_input * price.cached_input_pico
        + tokens.cache_write * price.cache_write_pico
        + tokens.output * price.output_pico
        + tokens.reasoning * price.reasoning_pico
    )
    return charge_nano(total_pico) + price.request_nano
