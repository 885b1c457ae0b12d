"""The past under other budgets, against sums that can be made by hand."""

from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest

from budget.model import Budget, DowngradeRule, Policy
from core.scope import Scope
from dashboard.replay import replay
from dashboard.what_if import Replay, ReplayAsk, Tally
from gateway.rulebook import Rulebooks
from ledger.duckdb_store import DuckDbLedger
from ledger.model import Position
from ledger.ports import Interval
from spendgate.ledger_access import OwnLedger
from tests.dashboard.conftest import StillClock, prices, routes
from tests.ledger.events import DAY_MS, HOUR_MS, START_MS, Call, Stream

CENT = 10**7
MIDNIGHT_MS = START_MS - 10 * HOUR_MS
#: Refuses beyond its limit, never downgrades.
PLAIN = Policy(hard_cap=Decimal(1), downgrade=())


def budget(cents: int, policy: Policy = PLAIN, **more: Any) -> Budget:
    return replace(Budget("bots", Scope("agent", "bot"), cents * CENT, policy=policy), **more)


@dataclass
class Past:
    """What happened, in a ledger."""

    ledger: DuckDbLedger
    stream: Stream

    def call(self, cents: int = 1, held: int = 2, *, served: str = "dbrx", lasted_ms: int = 900, **more: Any) -> Call:
        call = self.stream.hold(amount_nano=held * CENT, **more)
        self.stream.settle(call, model=served, cost_nano=cents * CENT, lasted_ms=lasted_ms)
        return call

    async def under(self, new: Budget, was: Budget | None = None, **more: Any) -> Replay:
        batch = self.stream.batch(self.ledger.position())
        if batch.events or batch.calls:
            self.ledger.append(batch)
        interval = more.pop("interval", Interval(MIDNIGHT_MS, self.stream.now_ms + 1))
        clock = more.pop("clock", StillClock())
        ask = ReplayAsk(new, was, interval, **more)
        return await replay(ask, OwnLedger(self.ledger), Rulebooks(routes(), prices(), 1, clock), clock)


@pytest.fixture
def past(ledger: DuckDbLedger) -> Past:
    return Past(ledger, Stream())


async def test_under_half_the_limit_just_so_many_calls_are_refused(past: Past):
    for _ in range(100):
        past.call(cents=1, held=2)
    found = await past.under(budget(50), budget(100))
    assert found.actual == Tally(100, 0, 0, 100 * CENT)
    assert found.simulated == Tally(49, 51, 0, 49 * CENT), "the 49th finds 48 spent and needs 2; the 50th finds 49"
    assert found.refused_cost_nano == 51 * CENT
    exact = await past.under(budget(51))
    assert exact.simulated == Tally(50, 50, 0, 50 * CENT)


async def test_every_day_begins_anew_in_the_budgets_zone(past: Past):
    for _ in range(3):
        for _ in range(10):
            past.call()
        past.stream.now_ms += DAY_MS - 9_000
    found = await past.under(budget(6))
    assert [(day.actual.calls, day.simulated.calls) for day in found.days] == [(10, 5), (10, 5), (10, 5), (0, 0)]
    tokyo = await past.under(budget(6, zone="Asia/Tokyo"))
    assert [day.start_ms for day in tokyo.days][:2] == [MIDNIGHT_MS - 9 * HOUR_MS, MIDNIGHT_MS + 15 * HOUR_MS]
    week = await past.under(budget(6, cadence="weekly"))
    assert [day.simulated.calls for day in week.days] == [5, 0, 0, 0]


async def test_beyond_the_limit_a_cheaper_model_serves_at_its_own_price(past: Past):
    tokens = {"input": 1000, "output": 4000}
    for _ in range(10):
        call = past.stream.hold(amount_nano=2 * CENT)
        past.stream.settle(call, tokens=tokens, cost_nano=1 * CENT)
    there = 4_000_002  # 4,000 × $1 per million, and 1,000 × $0.0000015 per million rounded up
    rule = Policy(hard_cap=Decimal(2), downgrade=(DowngradeRule("dbrx", "mixtral"),))
    found = await past.under(budget(5, rule))
    assert found.actual == Tally(10, 0, 0, 10 * CENT)
    assert found.simulated == Tally(10, 0, 4, 6 * CENT + 4 * there), "the seventh finds 6 cents spent, over 5"
    models = await past.under(budget(100), models=(("big", "mixtral"),))
    assert models.simulated == Tally(10, 0, 10, 10 * there), "a model may be called by another name"
    tight = await past.under(budget(3), models=(("*", "mixtral"),))
    assert tight.simulated.calls == 6, "5 × 0.4 are spent, and it holds in proportion: 0.8"


async def test_what_was_refused_is_let_through_by_more(past: Past):
    for _ in range(5):
        past.call()
    for _ in range(3):
        past.stream.refuse(needed_nano=2 * CENT, account="0")
    was = replace(budget(6), id="agents")  # the account that refused is this budget's
    same = await past.under(was, was)
    assert same.simulated == same.actual == Tally(5, 3, 0, 5 * CENT) and same.let_through == 0
    more = await past.under(replace(was, limit_nano=10 * CENT), was)
    assert more.simulated == Tally(7, 1, 0, 9 * CENT) and more.let_through == 2
    team = replace(was, id="teams", scope=Scope("team", "ml"))
    other = await past.under(replace(team, limit_nano=10**12), team)
    assert other.simulated.refused == 3, "another budget refused them"


async def test_the_first_budget_there_is_lets_through_what_none_covered(past: Past):
    past.stream.refuse(code="no_budget", account="", needed_nano=0)
    found = await past.under(budget(5))
    assert (found.actual, found.simulated) == (Tally(0, 1, 0, 0), Tally(1, 0, 0, 0))


async def test_what_another_budget_downgraded_stays_so(past: Past):
    for _ in range(4):
        past.call(cents=1, served="mixtral")
    rule = Policy(hard_cap=Decimal(2), downgrade=(DowngradeRule("dbrx", "mixtral"),))
    was = budget(100, rule)
    found = await past.under(replace(was, limit_nano=200 * CENT), was)
    assert found.simulated == found.actual == Tally(4, 0, 4, 4 * CENT)


async def test_what_this_budget_downgraded_is_served_as_asked_under_more(past: Past):
    rule = Policy(hard_cap=Decimal(3), downgrade=(DowngradeRule("dbrx", "mixtral"),))
    was = budget(3, rule)
    tokens = {"input": 1000, "output": 4000}
    for served in ["dbrx"] * 4 + ["mixtral"] * 2:
        call = past.stream.hold(amount_nano=2 * CENT)
        cost = CENT if served == "dbrx" else CENT // 2
        past.stream.settle(call, model=served, tokens=tokens, cost_nano=cost)
    same = await past.under(was, was)
    assert same.simulated == same.actual == Tally(6, 0, 2, 5 * CENT)
    more = await past.under(replace(was, limit_nano=100 * CENT), was)
    as_asked = 1000 * 750 + 4000 * 2250
    assert more.simulated == Tally(6, 0, 0, 4 * CENT + 2 * as_asked)


async def test_calls_in_flight_hold_their_money(past: Past):
    for _ in range(2):  # the second begins while the first runs
        first, second = past.stream.hold(amount_nano=2 * CENT), past.stream.hold(amount_nano=2 * CENT)
        past.stream.settle(first, cost_nano=CENT, lasted_ms=500)
        past.stream.settle(second, cost_nano=CENT, lasted_ms=500)
        past.stream.now_ms += 1_000
    found = await past.under(budget(5))
    assert found.simulated == Tally(3, 1, 0, 3 * CENT), "2 spent and 2 held leave 1 of 5 for the fourth"


async def test_corrections_follow_their_call(past: Past):
    lost, kept = past.stream.hold(amount_nano=4 * CENT), past.stream.hold(amount_nano=4 * CENT)
    past.stream.now_ms += 60_000
    past.stream.expire(lost)
    past.stream.expire(kept)
    past.stream.settle(lost, cost_nano=CENT, lasted_ms=0)
    past.stream.true_up(kept, 2 * CENT)
    past.stream.void(past.stream.hold(amount_nano=9 * CENT))
    past.stream.post("wh_1", 5 * CENT, agent="bot")
    whole = await past.under(budget(100))
    assert whole.actual == whole.simulated == Tally(3, 0, 0, 8 * CENT)
    one = await past.under(budget(6))
    assert one.simulated == Tally(2, 1, 0, 6 * CENT), "of the two first, and what comes from elsewhere"


async def test_what_was_spent_before_the_first_day_counts(past: Past):
    for _ in range(10):
        past.call()
    past.stream.now_ms += DAY_MS
    for _ in range(10):
        past.call()
    second = Interval(MIDNIGHT_MS + DAY_MS, past.stream.now_ms + 1)
    found = await past.under(budget(16, cadence="monthly"), interval=second)
    assert found.actual == Tally(10, 0, 0, 10 * CENT)
    assert found.simulated == Tally(5, 5, 0, 5 * CENT), "10 were spent the day before"


async def test_each_key_of_a_wildcard_but_those_with_a_budget_of_their_own(past: Past):
    for _ in range(4):
        for agent in ("bot", "scout", "own"):
            past.call(agent=agent)
    found = await past.under(budget(3, scope=Scope("agent", "*")), exempt=("own",))
    assert found.actual == Tally(8, 0, 0, 8 * CENT)
    assert found.simulated == Tally(4, 4, 0, 4 * CENT)


async def test_a_budget_on_a_model_sends_its_calls_to_another(past: Past):
    for served in ("dbrx", "sonnet", "dbrx", "dbrx"):
        past.call(served=served, model=served)
    rule = Policy(hard_cap=Decimal(1), downgrade=(DowngradeRule("dbrx", "mixtral"),))
    found = await past.under(Budget("m", Scope("model", "dbrx"), 2 * CENT, policy=rule))
    assert found.actual == Tally(3, 0, 0, 3 * CENT), "calls for other models are not its"
    assert (found.simulated.calls, found.simulated.downgraded) == (3, 2)


async def test_models_that_nobody_knows_any_more_stay_as_they_were(past: Past):
    past.call(model="sonnet", served="sonnet")
    past.call()
    found = await past.under(budget(1))
    assert found.unjudged == 1 and found.simulated == Tally(1, 1, 0, CENT)


async def test_it_stops_in_time_and_says_so(past: Past):
    for _ in range(3):
        past.call()
        past.stream.now_ms += DAY_MS

    class Slow(StillClock):
        def monotonic_s(self) -> float:
            self.at_ms += 1_000
            return super().monotonic_s()

    found = await past.under(budget(1), clock=Slow(), most_s=0.5)
    assert found.until_ms == START_MS and found.read == 0 and found.simulated == Tally()
    assert [day.start_ms for day in found.days] == [MIDNIGHT_MS], "of the days after that it says nothing"


async def test_nothing_happened(past: Past):
    found = await past.under(budget(1))
    assert found.read == 0 and found.until_ms is None and [d.actual for d in found.days] == [Tally()]


async def test_pages_do_not_show(past: Past, monkeypatch: pytest.MonkeyPatch):
    for number in range(23):
        past.call(lasted_ms=number % 2)
    whole = await past.under(budget(9))
    monkeypatch.setattr("dashboard.replay._PAGE", 4)
    assert replace(await past.under(budget(9)), took_ms=0) == replace(whole, took_ms=0)
    assert whole.read == 23 and Position() != past.ledger.position()
