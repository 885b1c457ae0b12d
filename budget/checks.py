"""What no store may be asked for. A script is never rolled back, so this is looked at before it runs."""

from budget.model import ReserveRequest, Resolution
from core.errors import InvalidInput
from core.money import MAX_LIMIT_NANO


def check_request(request: ReserveRequest) -> None:
    """Amounts are whole and below 2**53 (exact in Lua), and every candidate says which accounts watch it.

    Raises:
        InvalidInput: names the field and the rule.
    """
    for candidate in request.candidates:
        if len(candidate.watched) != len(request.accounts):
            raise InvalidInput("watched", "must have one mark per account")
        if min(candidate.base_nano, candidate.out_pico, candidate.tokens, candidate.min_tokens) < 0:
            raise InvalidInput("ceiling", "must not be negative")
        tokens = max(candidate.tokens, candidate.min_tokens)
        if candidate.base_nano + tokens * max(candidate.out_pico, 1) > MAX_LIMIT_NANO:
            raise InvalidInput("ceiling", "is too large: ask for fewer output tokens")


def check_resolution(resolution: Resolution) -> None:
    """A cost is whole, not negative and below 2**53 nano-dollars, and so is the hold that follows.

    Raises:
        InvalidInput: names the field and the rule.
    """
    following = resolution.next_hold.amount_nano if resolution.next_hold else 0
    for field, amount_nano in (("cost", resolution.cost_nano), ("nextHold", following)):
        if not 0 <= amount_nano <= MAX_LIMIT_NANO:
            raise InvalidInput(field, "must be from 0 to below 2**53 nano-dollars")
