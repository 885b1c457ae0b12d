"""What keeps a worker from growing: its memories are bounded, and a call leaves nothing behind."""

import pytest

import gateway.auth
import gateway.planner
from bench.growth.cost import axes
from bench.growth.soak import slope
from budget.book import BudgetBook
from budget.model import Budget
from core.clock import SystemClock
from core.keys import ApiKey, KeyRing, KeyRole, digest_of, new_key_text
from core.scope import Chain, Scope
from gateway.auth import Authenticator
from gateway.call import Call
from gateway.planner import Planner
from routing.health import Health
from routing.routes_file import default_routes_text, load_routes
from telemetry.prices import PriceBook, default_prices_text, load_prices

NOW_MS = 1_795_000_000_000
ALL = Budget("all", Scope("agent", "*"), 10**12)


def agents_key() -> ApiKey:
    key_id, text = new_key_text(KeyRole.AGENT)
    return ApiKey(key_id, "bot", KeyRole.AGENT, digest_of(text), (), (Scope("agent", "*"),), 0, "api")


def call(agent: str) -> Call:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    return Call("req_1", "openai", "chat", None, body, False, False, 100, Chain((Scope("agent", agent),)), "k", 0, 0.0)


def test_the_planner_keeps_so_many_shapes_and_lets_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.planner, "_MOST_SHAPES", 3)
    environment = {"DATABRICKS_BASE_URL": "http://x", "DATABRICKS_API_KEY": "x"}
    routes = load_routes(default_routes_text(), source="test", environment=environment)
    prices = PriceBook(load_prices(default_prices_text(), source="test"))
    planner = Planner(routes, prices, BudgetBook([ALL]), Health(SystemClock()))
    for number in range(10):
        plan, _ = planner.plan(call(f"a-{number}"), NOW_MS)
        assert plan.accounts[0].scope.key == f"a-{number}"
    assert [text for text, _ in planner._shapes] == ["agent:a-7", "agent:a-8", "agent:a-9"]


def test_the_authenticator_keeps_so_many_chains_and_lets_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.auth, "_MOST_CHAINS", 3)

    async def refresh() -> None:
        raise AssertionError("every key is known")

    key = agents_key()
    callers = Authenticator(KeyRing([key]), SystemClock(), refresh)
    for number in range(10):
        assert callers.chain(key, {"x-budget-scopes": f"agent:a-{number}"}, None).keys["agent"] == f"a-{number}"
    assert [chain.keys["agent"] for chain in callers._chains.values()] == ["a-7", "a-8", "a-9"]


def test_a_book_keeps_nothing_of_budgets_that_are_gone() -> None:
    book = BudgetBook([ALL])
    for number in range(100):
        book.put(Budget("moving", Scope("agent", f"a-{number}"), 10**9))
    book.remove("moving")
    book.remove("all")
    assert not book._by_scope and not book._of_all and not book.all()
    assert book.for_scope(Scope("agent", "a-99")) == []


def test_every_axis_begins_with_its_smallest_case() -> None:
    for quick in (True, False):
        for axis in axes(quick):
            sizes = [(c.size.agents + c.size.keys + c.size.holds, c.agents, c.chain) for c in axis.cases]
            assert sizes == sorted(sizes), axis.name


def test_the_slope_is_growth_per_round() -> None:
    assert slope([5, 5, 5]) == 0
    assert slope([1, 3, 5, 7]) == 2
    assert slope([4]) == 0
