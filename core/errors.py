"""What can go wrong, as one tree.

SpendgateError
├── InvalidInput        400  a field breaks a rule; names both
├── Unauthorized        401  no key, or one that is not known
├── Forbidden           403  a key that may not do this
├── NotFound            404  no such budget, key, model, route
├── Conflict            409  the thing changed meanwhile, or exists already
├── BodyTooLarge        413  over a limit of size
├── StoreUnavailable    503  the live state can't be reached or refuses: nothing is admitted
│   └── StoreLost       503  it answers, but has lost memory, or is being rebuilt
└── ConfigError         500  the configuration can't work; stops the start

A refusal of a budget is a value (`budget.model.Refusal`), not an exception; an upstream's failure is
`routing.errors.UpstreamError`.
"""


class SpendgateError(Exception):
    """A business error; carries its HTTP status and a stable code where it is declared."""

    status = 500
    code = "internal_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidInput(SpendgateError):
    """`field` breaks `rule`."""

    status = 400
    code = "invalid_input"

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}")
        self.field = field
        self.rule = rule


class Unauthorized(SpendgateError):
    """No key was sent, or it is not known."""

    status = 401
    code = "unauthorized"


class Forbidden(SpendgateError):
    """The key is known but may not do this."""

    status = 403
    code = "forbidden"


class NotFound(SpendgateError):
    """The named thing does not exist."""

    status = 404
    code = "not_found"


class Conflict(SpendgateError):
    """The thing exists already, or changed since it was read."""

    status = 409
    code = "conflict"


class BodyTooLarge(SpendgateError):
    """A request is over a limit of size."""

    status = 413
    code = "body_too_large"


class StoreUnavailable(SpendgateError):
    """The live state can't be reached or refuses writes; money can't be held, so nothing is admitted."""

    status = 503
    code = "store_unavailable"
    retry_after_s = 2


class StoreLost(StoreUnavailable):
    """The live state has forgotten something, or is being rebuilt; nothing is read from it as true or written to it."""

    code = "store_lost"

    def __init__(self, why: str) -> None:
        super().__init__(f"the store's memory can't be trusted: {why}")
        self.why = why


class ConfigError(SpendgateError):
    """The configuration can't work."""

    status = 500
    code = "config_error"
