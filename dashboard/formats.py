"""Numbers and times as people read them; units are always said."""

from datetime import UTC, datetime
from decimal import Decimal
from zoneinfo import ZoneInfo

import orjson

from budget.model import BudgetState
from core.errors import InvalidInput, SpendgateError
from core.money import NANO_PER_USD, format_usd

#: A state in a sign, for whoever does not see colours.
STATE_ICONS = {
    BudgetState.ACTIVE: "●",
    BudgetState.WARNED: "▲",
    BudgetState.DEGRADED: "▼",
    BudgetState.STOPPED: "■",
}

#: Fields of the API, as the pages name them.
_NAMES = {
    "limitUsd": "the limit",
    "cadence": "the period",
    "timeZone": "the time zone",
    "zone": "the time zone",
    "softCap": "“Warned above”",
    "hardCap": "“Stopped at”",
    "downgrade": "“Beyond the limit, in place of”",
    "disabledTools": "“Tools dropped”",
    "scope": "the scope",
    "scopes": "“Who pays”",
    "scopeType": "the scope type",
    "scopeKey": "the scope key",
    "budgetId": "the budget",
    "keyId": "the key",
    "amountUsd": "the amount",
    "reason": "the reason",
    "usdPerMillionTokens": "the price",
    "usdPerRequest": "the price per request",
    "effectiveFrom": "the start",
    "days": "the number of days",
    "inputTokens": "the number of tokens",
    "maxTokens": "the length of the answer",
}


def money(amount_nano: int) -> str:
    """Dollars: cents from a dollar on, below that as many digits as say something."""
    if amount_nano < 0:
        return "−" + money(-amount_nano)
    if amount_nano == 0 or amount_nano >= NANO_PER_USD:
        return f"${Decimal(amount_nano) / NANO_PER_USD:,.2f}"
    if amount_nano >= NANO_PER_USD // 100:
        return f"${Decimal(amount_nano) / NANO_PER_USD:.4f}".removesuffix("00")
    return f"${Decimal(amount_nano) / NANO_PER_USD:.6f}"


def exact(amount_nano: int) -> str:
    """Dollars with all digits, for who looks closer."""
    return f"${format_usd(amount_nano)}"


def nano_of(usd: Decimal) -> int:
    """Dollars of the ledger, of twelve decimals, in nano-dollars."""
    return int((Decimal(usd) * NANO_PER_USD).to_integral_value())


def count(number: int) -> str:
    """A whole number."""
    return f"{number:,}"


def share(part: int, whole: int) -> int:
    """Part of the whole in whole percent."""
    return part * 100 // whole if whole > 0 else 0


def percent(part: int, whole: int) -> str:
    """Part of the whole in percent, to a tenth: ``26.2``."""
    tenths = (part * 2000 + whole) // (2 * whole) if whole > 0 else 0
    return f"{tenths // 10}.{tenths % 10}"


def local(at_ms: int, zone: str, *, seconds: bool = False, year: bool = False, time: bool = True) -> str:
    """``23 Nov 12:03``, in a time zone."""
    at = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(zone))
    hours = " %H:%M:%S" if seconds else " %H:%M"
    return at.strftime(f"%d %b{' %Y' if year else ''}{hours if time else ''}").lstrip("0")


def duration(ms: int) -> str:
    """``850 ms``, ``2.4 s``, ``3 h``, ``12 d``."""
    if ms < 1000:
        return f"{ms} ms"
    for limit, size, unit, digits in (
        (60_000, 1000, "s", 1),
        (7_200_000, 60_000, "min", 0),
        (172_800_000, 3_600_000, "h", 0),
    ):
        if ms < limit:
            return f"{ms / size:.{digits}f} {unit}"
    return f"{ms // 86_400_000} d"


def told(error: SpendgateError) -> str:
    """What is wrong, as a person is told it: fields by the names that pages give them."""
    message = error.message
    if isinstance(error, InvalidInput):
        field = error.field.rpartition("replay.")[2].removeprefix("changes.").removeprefix("budget.").partition(".")[0]
        message = f"{_NAMES.get(field, error.field)} {error.rule}"
    return message[:1].upper() + message[1:]


def for_script(data: object) -> str:
    """JSON that can stand in a page: no text in it can end the element."""
    return orjson.dumps(data).decode().replace("<", "\\u003c")
