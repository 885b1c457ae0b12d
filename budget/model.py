"""The nouns of a budget. DESIGN of the state machine in one line:

a budget (configuration) has accounts (budget, key, period); a hold reserves money on a chain of accounts:
held -> settled | voided | expired, and each end is one event.
"""

from dataclasses import field
from decimal import Decimal
from enum import IntEnum, StrEnum

from core.period import Period
from core.scope import Scope
from core.values import value


class BudgetState(IntEnum):
    """State of an account by what is spent, in order of severity; a request obeys the worst of its chain."""

    ACTIVE = 0
    WARNED = 1
    DEGRADED = 2
    STOPPED = 3

    @property
    def label(self) -> str:
        """``Active``, ``Warned``, ``Degraded`` or ``Stopped``."""
        return _LABELS[self]


_LABELS = tuple(state.name.capitalize() for state in BudgetState)


@value
class DowngradeRule:
    """While Degraded, `from_model` (or ``*``, any other) is served by `to_model`."""

    from_model: str
    to_model: str


@value
class Policy:
    """How a budget acts.

    soft_cap, hard_cap: fractions of the limit; Warned above the first, nothing admitted beyond the second.
    downgrade: rules in order; None takes the fallbacks of the routes; empty never downgrades.
    disabled_tools: names of tools that a Degraded call loses.
    allow_downgrade: False: calls of this budget get the model asked for, or a refusal, whatever other budgets of
        their chain say; also in Degraded, until it is Stopped.
    allow_smaller_max_tokens: whether an answer may be shortened to fit, never below `min_output_tokens`; all budgets of
        the chain must allow it.
    """

    soft_cap: Decimal = Decimal("0.8")
    hard_cap: Decimal = Decimal("1.2")
    downgrade: tuple[DowngradeRule, ...] | None = None
    disabled_tools: tuple[str, ...] = ()
    allow_downgrade: bool = True
    allow_smaller_max_tokens: bool = True
    min_output_tokens: int = 256


@value
class TopUp:
    """Extra limit for one period (and one key; None: each key), until `expires_ms` or the period's end."""

    id: str
    period_id: str
    key: str | None
    amount_nano: int
    expires_ms: int
    reason: str
    at_ms: int


@value
class Reset:
    """A fresh start within a period (for one key; None: each key). The old account keeps its history."""

    period_id: str
    key: str | None
    reason: str
    at_ms: int


@value
class Budget:
    """A limit on a scope per period.

    scope: with key ``*`` it applies to each key of the type separately.
    limit_nano: per period, before top-ups.
    cadence, zone: see `core.period`.
    paused: True takes the budget out of force without losing it.
    source: who manages it: ``api``, ``env``, ``yaml`` or ``edge``.
    revision: version of the snapshot that this text came with; 0 before it is stored.
    """

    id: str
    scope: Scope
    limit_nano: int
    cadence: str = "daily"
    zone: str = "UTC"
    policy: Policy = Policy()
    paused: bool = False
    source: str = "api"
    top_ups: tuple[TopUp, ...] = ()
    resets: tuple[Reset, ...] = ()
    created_ms: int = 0
    updated_ms: int = 0
    revision: int = 0


@value
class AccountTerms:
    """An account as one request sees it: which it is and its limits at that time, in nano-dollars.

    Warned above `soft_nano`, Degraded above `limit_nano`, Stopped from `stop_at_nano` on (the hard cap less the
    smallest call there is), and never more than `hard_nano` spent and held together.
    until_ms: when these limits change by themselves (the period or a top-up ends); None: never.
    limits: what a store remembers of them, as text: limit, soft and stop_at.
    wire: what a reserve says of them: limits, hard, and the period's end in epoch ms, or -.
    """

    id: str
    budget: Budget
    scope: Scope
    period: Period
    limit_nano: int
    soft_nano: int
    stop_at_nano: int
    hard_nano: int
    until_ms: int | None = None
    limits: str = field(init=False, repr=False, compare=False)
    wire: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = f"{self.limit_nano} {self.soft_nano} {self.stop_at_nano}"
        end = "-" if self.period.end_ms is None else self.period.end_ms
        object.__setattr__(self, "limits", limits)
        object.__setattr__(self, "wire", f"{limits} {self.hard_nano} {end}")

    def state_at(self, spent_nano: int) -> BudgetState:
        """The state at this spend."""
        if spent_nano >= self.stop_at_nano:
            return BudgetState.STOPPED
        if spent_nano > self.limit_nano:
            return BudgetState.DEGRADED
        if spent_nano > self.soft_nano:
            return BudgetState.WARNED
        return BudgetState.ACTIVE


#: One character per account of a request, for a candidate:
UNAFFECTED = "-"  # the account does not watch this candidate (a budget on another model)
NOT_WHEN_DEGRADED = "0"  # watched, and not to be used once the account is Degraded
EVEN_WHEN_DEGRADED = "1"  # watched, and fine in Degraded too


@value
class Candidate:
    """A way to serve the call, with its ceiling: ``base_nano + ceil(tokens × out_pico / 1000)``.

    model: name in the routes ("" for money that is no model call).
    tokens: output tokens asked for; min_tokens: fewest that are acceptable (equal: not to be shortened).
    watched: one character per account, see above.
    """

    model: str
    base_nano: int
    out_pico: int
    tokens: int
    min_tokens: int
    watched: str

    def ceiling_nano(self, tokens: int) -> int:
        """The most that this many output tokens can cost."""
        return self.base_nano - (-tokens * self.out_pico // 1000)


@value
class ReserveRequest:
    """Everything the store needs to decide, in one message.

    owner: names the worker and the call; asked again under the same id, only that call gets the hold again.
    now_ms: the worker's clock; refused when it is more than the allowed skew off the store's.
    version: of the snapshot that `accounts` was computed from; refused when it is not the store's.
    detail: JSON kept with the hold, so that an expiry can tell what the call was.
    """

    hold_id: str
    owner: str
    now_ms: int
    version: int
    lease_ms: int
    accounts: tuple[AccountTerms, ...]
    candidates: tuple[Candidate, ...]
    detail: bytes = b"{}"


@value
class Balance:
    """What an account holds now, in nano-dollars, and its state at that spend."""

    spent_nano: int
    held_nano: int
    state: BudgetState


@value
class Hold:
    """Money that is held: the candidate that fitted (by index), how many tokens, how much on each account.

    balances: of every account of the request, after the hold.
    """

    id: str
    candidate: int
    tokens: int
    amount_nano: int
    balances: tuple[Balance, ...]


class RefusalCode(StrEnum):
    """Why nothing was held."""

    NO_BUDGET = "no_budget"  # no budget covers the call
    STOPPED = "budget_stopped"  # an account is Stopped
    EXCEEDED = "budget_exceeded"  # what is spent leaves no room for this call
    HELD = "budget_held"  # only what calls in flight hold leaves no room: waiting helps
    NO_MODEL = "no_model_available"  # the states leave no candidate


@value
class Refusal:
    """A refusal and the numbers that it comes from.

    account: index of the account that refused; None if it was none in particular.
    needed_nano: the smallest ceiling that was tried there.
    """

    code: RefusalCode
    account: int | None
    needed_nano: int
    balances: tuple[Balance, ...]


@value
class StaleSnapshot:
    """The worker's budgets are not the store's: read them again and ask again."""

    version: int


class HoldStatus(StrEnum):
    """Where a hold is in its life."""

    NONE = "none"
    HELD = "held"
    SETTLED = "settled"
    VOIDED = "voided"
    EXPIRED = "expired"


class ResolveMode(StrEnum):
    """What is to happen to a hold.

    SETTLE: release it and post what the call cost. VOID: release it, nothing was charged.
    EXPIRE: its lease ran out: post the whole hold, unconfirmed. TRUE_UP: somebody knows the cost better.
    POST: spend without a hold, once per id.
    """

    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"
    TRUE_UP = "true_up"
    POST = "post"


class Basis(StrEnum):
    """How a cost is known."""

    EXACT = "exact"
    ESTIMATED = "estimated"
    UNCONFIRMED = "unconfirmed"
    WEBHOOK = "webhook"


@value
class NextHold:
    """The hold of the next attempt, taken out of the one that ends, on the same accounts in the same script."""

    id: str
    amount_nano: int
    detail: bytes = b"{}"


@value
class Resolution:
    """The end of a hold.

    account_ids: the accounts of the hold, as it was reserved (or, for POST, to be charged).
    detail: JSON of the cost record, kept in the event.
    terms: the accounts with their limits, in the order of `account_ids`, where the store may not know them (POST).
    only_owner: an open hold of another owner is left alone; "": whoever owns it.
    """

    hold_id: str
    mode: ResolveMode
    account_ids: tuple[str, ...]
    cost_nano: int = 0
    basis: Basis = Basis.EXACT
    detail: bytes = b"{}"
    next_hold: NextHold | None = None
    lease_ms: int = 0
    owner: str = ""
    terms: tuple[AccountTerms, ...] = ()
    only_owner: str = ""


@value
class Settlement:
    """What a resolution did.

    before: status that the hold had; `NONE` for an id the store did not know.
    applied: False when it had no effect (a duplicate, a hold still alive).
    delta_nano: posted by this resolution (a correction can be negative).
    overage_nano: by how much the cost exceeded the hold.
    balances: of the accounts afterwards (spent_nano, held_nano).
    sequence: how many events the store had counted then.
    """

    before: HoldStatus
    applied: bool
    delta_nano: int
    overage_nano: int
    balances: tuple[tuple[int, int], ...] = ()
    sequence: int = field(default=0, compare=False)
