"""What a seed decides beforehand: when it plays, under which budgets, and what can go wrong."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

from budget.model import Budget, DowngradeRule, Policy, Reset, TopUp
from core.period import period_at
from core.scope import Scope
from tests.simulation.catalog import BIG, BOT, MID, SMALL, TEAM
from tests.simulation.provider import Moods

SKEWS_MS = (0, 0, 0, 1_500, -1_500, 4_900, -4_900, 6_000, -3_600_000, 31_536_000_000)
_CADENCES = ("total", "total", "daily", "every:10s", "monthly", "yearly")
_ZONES = ("UTC", "UTC", "Europe/Berlin", "America/Sao_Paulo")
#: A seed begins a few seconds before one of these, in one of the zones the end of a day, a month or a year.
_TURNS = (
    datetime(2026, 11, 23, 12, tzinfo=UTC),  # in the middle of everything
    datetime(2027, 1, 1, tzinfo=UTC),
    datetime(2028, 2, 29, tzinfo=UTC),
    datetime(2028, 3, 1, tzinfo=UTC),
    datetime(2027, 3, 28, 22, tzinfo=UTC),  # the end of a day of 23 hours in Berlin
    datetime(2027, 10, 31, 23, tzinfo=UTC),  # the end of a day of 25 hours, and of its month
)


@dataclass(slots=True)
class Climate:
    """What can happen under a seed. faults: share of the messages that are lost, late, or come twice."""

    base_ms: int = 0
    faults: float = 0.0
    outages: bool = False
    crashes: bool = False
    drains: bool = False
    cancels: bool = False
    changes: bool = False
    clocks: bool = False
    foreign: bool = False
    moods: Moods = field(default_factory=Moods)

    @property
    def holds_may_expire(self) -> bool:
        """Whether a lease can run out through nobody's mistake."""
        return bool(self.faults or self.outages or self.crashes)


def climate_of(rng: Random) -> Climate:
    """The climate of a seed: a third of them is calm but for the provider and the clients."""
    moods = Moods(
        bad=rng.choice((0.0, 0.2, 0.5)),
        broken=rng.choice((0.0, 0.3)),
        bad_usage=rng.choice((0.0, 0.3)),
        over=rng.choice((0.0, 0.0, 0.0, 0.2)),
        slow_s=rng.choice((0.05, 0.5, 2.0)),
    )
    climate = Climate(moods=moods, cancels=rng.random() < 0.4, changes=rng.random() < 0.5, foreign=rng.random() < 0.3)
    climate.base_ms = int(rng.choice(_TURNS).timestamp()) * 1000 - rng.choice((0, 5_000, 10_000))
    climate.drains = rng.random() < 0.2
    if rng.random() < 0.33:
        return climate
    climate.faults = rng.choice((0.0, 0.05, 0.2, 0.5))
    climate.outages = rng.random() < 0.3
    climate.crashes = rng.random() < 0.6
    climate.clocks = rng.random() < 0.3
    return climate


def budgets_of(rng: Random) -> list[Budget]:
    """One to three budgets, most of which watch most calls."""
    scope = rng.choice((BOT, BOT, Scope("agent", "*")))
    budgets = [_budget(rng, "bot", scope)]
    if rng.random() < 0.5:
        budgets.append(_budget(rng, "team", TEAM))
    if rng.random() < 0.25:
        budgets.append(_budget(rng, "model", Scope("model", rng.choice((BIG, MID)))))
    return budgets


def _budget(rng: Random, budget_id: str, scope: Scope) -> Budget:
    cadence, zone = rng.choice(_CADENCES), rng.choice(_ZONES)
    return Budget(budget_id, scope, rng.randint(500, 8_000), cadence=cadence, zone=zone, policy=_policy(rng))


def _policy(rng: Random) -> Policy:
    downgrade: tuple[DowngradeRule, ...] | None = None
    if rng.random() < 0.4:
        downgrade = rng.choice(((), (DowngradeRule("*", SMALL),), (DowngradeRule(BIG, MID), DowngradeRule(MID, SMALL))))
    return Policy(
        hard_cap=Decimal(rng.choice(("1", "1.2", "1.5"))),
        downgrade=downgrade,
        allow_downgrade=rng.random() < 0.8,
        allow_smaller_max_tokens=rng.random() < 0.7,
        min_output_tokens=rng.choice((1, 10, 256)),
    )


def changed(budget: Budget, rng: Random, now_ms: int) -> Budget:
    """The budget after an operator has been at it."""
    period = period_at(budget.cadence, budget.zone, now_ms)
    match rng.randint(0, 5):
        case 0:
            return replace(budget, limit_nano=budget.limit_nano * rng.randint(2, 4))
        case 1:
            return replace(budget, limit_nano=budget.limit_nano // rng.randint(2, 10))
        case 2:
            ends_ms = now_ms + rng.choice((1_000, 100_000))
            extra = TopUp(f"t{now_ms}", period.id, None, rng.randint(1, 5_000), ends_ms, "x", now_ms)
            return replace(budget, top_ups=(*budget.top_ups, extra))
        case 3:
            return replace(budget, resets=(*budget.resets, Reset(period.id, None, "x", now_ms)))
        case 4:
            return replace(budget, policy=_policy(rng))
        case _:
            return replace(budget, paused=not budget.paused)
