"""What no store may be asked for. A script is never rolled back, so this is looked at before it runs."""

from budget.model import ReserveRequest, Resolution
from budget.texts import SEPARATOR
from core.errors import InvalidInput
from core.money import MAX_LIMIT_NANO

_SEPARATOR = SEPARATOR.encode()


def check_request(request: ReserveRequest) -> None:
    """Amounts are whole and below 2**53 (exact in Lua), every candidate says which accounts watch it, and no text holds
    what separates texts in the store.

    Raises:
        InvalidInput: names the field and the rule.
    """
    check_text("hold", request.hold_id, request.owner)
    check_text("detail", request.detail)
    for candidate in request.candidates:
        if len(candidate.watched) != len(request.accounts):
            raise InvalidInput("watched", "must have one mark per account")
        if min(candidate.base_nano, candidate.out_pico, candidate.tokens, candidate.min_tokens) < 0:
            raise InvalidInput("ceiling", "must not be negative")
        tokens = max(candidate.tokens, candidate.min_tokens)
        if candidate.base_nano + tokens * max(candidate.out_pico, 1) > MAX_LIMIT_NANO:
            raise InvalidInput("ceiling", "is too large: ask for fewer output tokens")


def check_resolution(resolution: Resolution) -> None:
    """A cost is whole, not negative and below 2**53 nano-dollars, and so is the hold that follows; for texts see
    `check_request`.

    Raises:
        InvalidInput: names the field and the rule.
    """
    check_text("hold", resolution.hold_id)
    check_text("detail", resolution.detail)
    _check_amount("cost", resolution.cost_nano)
    following = resolution.next_hold
    if following is not None:
        check_text("nextHold", following.id, resolution.owner)
        check_text("detail", following.detail)
        _check_amount("nextHold", following.amount_nano)


def check_text(field: str, *texts: str | bytes) -> None:
    """What is kept as a part of a text of several must not hold their separator.

    Raises:
        InvalidInput: it does.
    """
    for text in texts:
        if (SEPARATOR in text) if isinstance(text, str) else (_SEPARATOR in text):
            raise InvalidInput(field, "must not hold control characters")


def _check_amount(field: str, amount_nano: int) -> None:
    if not 0 <= amount_nano <= MAX_LIMIT_NANO:
        raise InvalidInput(field, "must be from 0 to below 2**53 nano-dollars")
