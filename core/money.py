"""Money as integers.

An amount is an ``int`` of nano-dollars (``_nano``); a unit price is an ``int`` of pico-dollars per token
(``_pico``; 1 pico-dollar per token is 1 micro-dollar per million tokens, the unit of price sheets).
``Decimal`` appears only while text is parsed or printed; no float touches money.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, InvalidOperation

from core.errors import InvalidInput

NANO_PER_USD = 1_000_000_000
_NANO_PER_CENT = NANO_PER_USD // 100
PICO_PER_NANO = 1_000
_MAX_DIGITS = 28  # of Decimal's default context
PICO_PER_TOKEN_PER_USD_PER_MILLION = 1_000_000

#: Lua compares amounts as doubles, which are exact below 2**53; no limit may reach it.
MAX_LIMIT_NANO = 2**53 - 1


def parse_decimal(field: str, value: object) -> Decimal:
    """Read a finite decimal number from text, an int or a JSON float (by its shortest text).

    Raises:
        InvalidInput: naming `field`, if the value is a bool, NaN, infinite or no number.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        raise InvalidInput(field, f"must be a number, got {type(value).__name__}")
    try:
        number = Decimal(str(value).strip()) if not isinstance(value, Decimal) else value
    except (InvalidOperation, ValueError):  # ValueError: an int with thousands of digits
        raise InvalidInput(field, "must be a decimal number such as 12.50") from None
    if not number.is_finite():
        raise InvalidInput(field, "must be finite")
    if number.adjusted() > 18:
        raise InvalidInput(field, "is too large")
    if len(number.as_tuple().digits) > _MAX_DIGITS:  # more would be rounded on the way
        raise InvalidInput(field, f"must have at most {_MAX_DIGITS} digits")
    return number


def parse_usd_nano(field: str, value: object, *, minimum_nano: int = 0) -> int:
    """Dollars as text or number to nano-dollars, rounded half-even.

    Raises:
        InvalidInput: not a finite number, below `minimum_nano`, or not below 2**53 nano-dollars.
    """
    scaled = parse_decimal(field, value) * NANO_PER_USD
    nano = int(scaled.to_integral_value(rounding=ROUND_HALF_EVEN))
    if nano < minimum_nano:
        raise InvalidInput(field, f"must be at least {format_usd(minimum_nano)} USD")
    if nano > MAX_LIMIT_NANO:
        raise InvalidInput(field, f"must be at most {format_usd(MAX_LIMIT_NANO)} USD")
    return nano


def parse_price_pico(field: str, usd_per_million_tokens: object) -> int:
    """Price-sheet dollars per million tokens to pico-dollars per token, rounded up.

    Raises:
        InvalidInput: not a finite number, or negative.
    """
    price = parse_decimal(field, usd_per_million_tokens)
    if price < 0:
        raise InvalidInput(field, "must not be negative")
    return int((price * PICO_PER_TOKEN_PER_USD_PER_MILLION).to_integral_value(rounding=ROUND_CEILING))


def charge_nano(total_pico: int) -> int:
    """A sum of pico-dollars to nano-dollars, rounded up once."""
    return -(-total_pico // PICO_PER_NANO)


def fraction_floor(amount_nano: int, fraction: Decimal) -> int:
    """floor(amount × fraction) in nano-dollars: an integer is above the product iff it is above this."""
    return int((Decimal(amount_nano) * fraction).to_integral_value(rounding=ROUND_FLOOR))


def format_usd(amount_nano: int) -> str:
    """Nano-dollars as plain decimal dollars with at least two decimals, exact: ``"0.0000015"``, ``"12.50"``."""
    if amount_nano < 0:
        return "-" + format_usd(-amount_nano)
    if amount_nano % _NANO_PER_CENT:
        return f"{amount_nano // NANO_PER_USD}.{amount_nano % NANO_PER_USD:09d}".rstrip("0")
    return f"{amount_nano // NANO_PER_USD}.{amount_nano // _NANO_PER_CENT % 100:02d}"
