"""From a call to candidates and the accounts that watch them."""

import pytest

from budget.book import BudgetBook
from budget.model import Budget, DowngradeRule, Policy
from core.clock import SystemClock
from core.scope import Chain, Scope
from gateway.call import Call
from gateway.planner import NoUpstream, Planner
from routing.errors import FailureKind, UpstreamError
from routing.health import Health
from routing.routes_file import default_routes_text, load_routes
from telemetry.prices import Override, PriceBook, default_prices_text, load_prices, price_of

DBRX, MIXTRAL = "databricks-dbrx-instruct", "databricks-mixtral-8x7b-instruct"
LLAMA8 = "databricks-meta-llama-3-1-8b-instruct"
NOW_MS = 1_795_000_000_000
ROUTES = load_routes(
    default_routes_text(), source="test", environment={"DATABRICKS_BASE_URL": "http://x", "DATABRICKS_API_KEY": "x"}
)
PRICES = PriceBook(load_prices(default_prices_text(), source="test"))


def planner(*budgets: Budget) -> Planner:
    return Planner(ROUTES, PRICES, BudgetBook(budgets), Health(SystemClock()))


def budget(key: str = "bot", scope_type: str = "agent", **policy) -> Budget:
    return Budget(f"{scope_type}-{key}".replace("*", "all"), Scope(scope_type, key), 10**9, policy=Policy(**policy))


def call(asked: str | None = None, **body) -> Call:
    whole = {"messages": [{"role": "user", "content": "hi"}]} | body
    chain = Chain((Scope("agent", "bot"), Scope("team", "ml")))
    return Call("req_1", "openai", "chat", asked, whole, False, False, 100, chain, "k", 0, 0.0)


def shown(plan) -> list[tuple[str, str]]:
    return [(c.model, c.watched) for c in plan.candidates]


def test_without_rules_the_routes_fallbacks_are_the_downgrade() -> None:
    plan, shape = planner(budget()).plan(call(), NOW_MS)
    assert shown(plan) == [(DBRX, "0"), (MIXTRAL, "1")] and shape.skipped == []


def test_a_budget_that_never_downgrades_is_content_with_the_primary() -> None:
    assert shown(planner(budget(downgrade=())).plan(call(), NOW_MS)[0]) == [(DBRX, "1")]


def test_one_budget_that_insists_is_enough() -> None:
    plan, _ = planner(budget(), budget("ml", "team", allow_downgrade=False)).plan(call(), NOW_MS)
    assert shown(plan) == [(DBRX, "11")]


def test_each_budget_has_its_own_rules() -> None:
    rule = (DowngradeRule("dbrx", "llama-3-1-8b"),)
    plan, _ = planner(budget(downgrade=rule), budget("ml", "team", downgrade=())).plan(call(), NOW_MS)
    assert shown(plan) == [(DBRX, "01"), (LLAMA8, "11")]


def test_a_budget_on_a_model_watches_that_model_only() -> None:
    plan, _ = planner(budget(), budget(MIXTRAL, "model", downgrade=())).plan(call(), NOW_MS)
    assert shown(plan) == [(DBRX, "0-"), (MIXTRAL, "11")]


def test_a_cheap_model_is_not_downgraded_to_a_dearer_one() -> None:
    assert shown(planner(budget()).plan(call("llama-3-1-8b"), NOW_MS)[0]) == [(LLAMA8, "1")]


def test_the_ceiling_covers_the_request_and_the_answer() -> None:
    plan, _ = planner(budget()).plan(call(max_tokens=100, n=2), NOW_MS)
    first = plan.candidates[0]
    assert first.tokens == 100 and first.out_pico == 2 * 2_250_000
    assert first.base_nano >= 100 * 750, "every byte of the request could be a token"
    assert first.ceiling_nano(100) == first.base_nano + 2 * 100 * 2250


def test_no_shortening_unless_all_budgets_allow_it() -> None:
    assert planner(budget(min_output_tokens=9)).plan(call(max_tokens=100), NOW_MS)[0].candidates[0].min_tokens == 9
    strict = planner(budget(), budget("ml", "team", allow_smaller_max_tokens=False))
    assert strict.plan(call(max_tokens=100), NOW_MS)[0].candidates[0].min_tokens == 100


def test_a_model_whose_circuit_is_open_is_left_out_and_named() -> None:
    plans = planner(budget(downgrade=()))
    for _ in range(5):
        plans.health.failed(DBRX, UpstreamError(FailureKind.UNAVAILABLE, "x"))
    plan, shape = plans.plan(call(), NOW_MS)
    assert shown(plan) == [(MIXTRAL, "1")] and shape.skipped == [DBRX]
    for _ in range(5):
        plans.health.failed(MIXTRAL, UpstreamError(FailureKind.UNAVAILABLE, "x"))
    with pytest.raises(NoUpstream, match=DBRX):
        plans.plan(call(), NOW_MS)


def test_a_hold_is_for_the_price_that_a_person_set_from_its_instant_on() -> None:
    prices = PriceBook(load_prices(default_prices_text(), source="test"))
    plans = Planner(ROUTES, prices, BudgetBook([budget()]), Health(SystemClock()))
    outs = [plans.plan(call(), NOW_MS)[0].candidates[0].out_pico]
    price = price_of(DBRX, NOW_MS + 10, {"input": 1, "output": 7}, request_nano=0, source="x", override_id="prc_1")
    prices.put(Override(price, NOW_MS + 20, "a test", NOW_MS))
    outs += [plans.plan(call(), NOW_MS + ms)[0].candidates[0].out_pico for ms in (9, 10, 19, 20)]
    prices.put(Override(price, NOW_MS + 15, "a test", NOW_MS))
    outs.append(plans.plan(call(), NOW_MS + 19)[0].candidates[0].out_pico)
    assert outs == [2_250_000, 2_250_000, 7, 7, 2_250_000, 2_250_000]


def test_what_is_kept_of_a_plan_ends_with_a_new_price() -> None:
    prices = PriceBook(load_prices(default_prices_text(), source="test"))
    plans = Planner(ROUTES, prices, BudgetBook([budget()]), Health(SystemClock()))
    plans.plan(call(), NOW_MS)
    price = price_of(DBRX, NOW_MS, {"input": 1, "output": 7}, request_nano=0, source="x", override_id="prc_1")
    prices.put(Override(price, None, "a test", NOW_MS))
    assert plans.plan(call(), NOW_MS)[0].candidates[0].out_pico == 7
