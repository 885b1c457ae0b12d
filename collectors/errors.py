"""What can go wrong when outside systems are asked."""

from core.errors import SpendgateError


class UsageUnavailable(SpendgateError):
    """A provider's record can't be read."""

    status = 502
    code = "usage_unavailable"
