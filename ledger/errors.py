"""What can go wrong with the ledger."""

from core.errors import SpendgateError


class LedgerUnavailable(SpendgateError):
    """The ledger's database can't be reached or refuses; nothing is lost, events wait in the live state."""

    status = 503
    code = "ledger_unavailable"
    retry_after_s = 5
