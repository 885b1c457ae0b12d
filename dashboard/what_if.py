"""What-if: what is asked and answered, and who answers, by role. The process fills the roles from the gateway."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from budget.dry_run import DryRun
from budget.model import AccountTerms, Budget
from core.scope import Scope
from core.values import value
from ledger.ports import Interval
from routing.model import Model
from telemetry.prices import Price


@value
class ReplayAsk:
    """What to replay.

    budget: as it would have been. was: as it is now; None: there is no such budget.
    interval: of the calls' ends. models: from, to: calls for the first (or ``*``, any) ask for the second instead.
    exempt: keys that a wildcard budget does not watch, since they have a budget of their own.
    most_s: no page is begun after so many seconds.
    """

    budget: Budget
    was: Budget | None
    interval: Interval
    models: tuple[tuple[str, str], ...] = ()
    exempt: tuple[str, ...] = ()
    most_s: float = 50.0


@dataclass(slots=True)
class Tally:
    """Calls that were served, and refused ones. downgraded: served by another model than they asked for."""

    calls: int = 0
    refused: int = 0
    downgraded: int = 0
    spent_nano: int = 0

    def add(self, other: "Tally") -> None:
        """Sum up."""
        self.calls += other.calls
        self.refused += other.refused
        self.downgraded += other.downgraded
        self.spent_nano += other.spent_nano


@dataclass(slots=True)
class Day:
    """A day in the budget's time zone, by when calls ended: as it was, and as it would have been."""

    start_ms: int
    actual: Tally = field(default_factory=Tally)
    simulated: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Replay:
    """What came of it.

    read: rows of the ledger. until_ms: calls that came later were not reached in time; None: all were.
    refused_cost_nano: what the calls that would have been refused did cost. let_through: that were refused, and would
    not have been. unjudged: on models that are not in the routes, or had no price; they stay as they were.
    unpriced: without tokens on record: on another model they cost what they did.
    """

    days: list[Day]
    actual: Tally = field(default_factory=Tally)
    simulated: Tally = field(default_factory=Tally)
    read: int = 0
    until_ms: int | None = None
    refused_cost_nano: int = 0
    let_through: int = 0
    unjudged: int = 0
    unpriced: int = 0
    took_ms: int = 0


class DryRuns(Protocol):
    """Tries calls without making them."""

    async def dry_run(
        self, *, key_id: str | None, scopes: Sequence[Scope], model: str | None, body: dict[str, Any], raw_bytes: int
    ) -> DryRun:
        """What would happen to a call now; nothing is held, sent or spent.

        key_id: of the agent key that would make it; None: only `scopes` pay. scopes: that its caller names.
        model: None: the routes' primary. body: OpenAI-shaped, without model. raw_bytes: size of the request.

        Raises:
            SpendgateError: it could not be made at all, with the reason that its caller would be given.
        """
        ...


class Option(Protocol):
    """A model that may serve, its price, and a mark for each account (`budget.model.Candidate.watched`)."""

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def price(self) -> Price:
        """At that time."""
        ...

    @property
    def watched(self) -> str:
        """Marks."""
        ...


class Ladder(Protocol):
    """What calls of one kind have in common: their accounts, and the models in order of preference."""

    @property
    def accounts(self) -> tuple[AccountTerms, ...]:
        """With their limits at that time."""
        ...

    @property
    def options(self) -> Sequence[Option]:
        """The model asked for first."""
        ...


class Rulebook(Protocol):
    """One budget's rules, at any time."""

    def ladder(self, key: str | None, model: str, at_ms: int) -> Ladder | None:
        """For calls that ask for a model. key: of the budget's type of scope; None: the call has none.
        None: the model is not in the routes, or had no price then.
        """
        ...

    def name_of(self, model: str) -> str:
        """The name of a model that may be called by another; what is not known stays as it is."""
        ...

    def accounts(self, key: str | None, at_ms: int) -> tuple[AccountTerms, ...]:
        """That spend from elsewhere is posted to."""
        ...


class Rulebooks(Protocol):
    """Makes the rules of a budget, which need not exist."""

    def of(self, budget: Budget) -> Rulebook:
        """Its rules, under the routes and prices in force."""
        ...


class Replays(Protocol):
    """Replays the past where it disturbs no calls."""

    async def replay(self, ask: ReplayAsk) -> Replay:
        """The past under another budget.

        Raises:
            LedgerUnavailable: the calls can't be read.
        """
        ...
