"""What is told of a call in headers and in records is written by hand: it must be what a library would write of it."""

import json

import pytest

from budget.model import Balance, BudgetState, Hold
from budget.service import Admission, Plan
from gateway.call import AccountStanding, Attempt, Call, standing_now
from gateway.headers import budget_lines, call_lines
from gateway.record import ABORTED, attempt_detail, hold_detail, option_detail
from routing.errors import FailureKind
from telemetry.usage import EstimatedUsage, ExactUsage, Tokens
from tests.budget.builders import fixed, terms
from tests.gateway.test_planner import DBRX, MIXTRAL, NOW_MS, PRICES, ROUTES, call

NASTY = 'so "called"\\ by\n\t»somebody«'


def attempt(*, other: bool = False, why: str | None = None, dropped: tuple[str, ...] = ()) -> Attempt:
    accounts = (terms("bot", limit=1000), terms("ml", limit=5000, budget_id="t"))
    balances = (Balance(100, 40, BudgetState.ACTIVE), Balance(4500, 60, BudgetState.WARNED))
    plan = Plan(accounts, tuple(a.id for a in accounts), (fixed(40, "11", DBRX),))
    model, asked = ROUTES.find(MIXTRAL if other else DBRX), PRICES.price_at(DBRX, NOW_MS)
    endpoint, price = ROUTES.endpoints[model.endpoint], PRICES.price_at(model.name, NOW_MS)
    told = option_detail(model, endpoint, price, asked if other else None)
    admission = Admission(Hold("hld_1", 0, 1, 40, balances), plan)
    return Attempt(admission, model, endpoint, price, told, {}, list(dropped), why, 0.0125)


def told(one: Call, tried: Attempt, usage: ExactUsage | EstimatedUsage | None, outcome: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(attempt_detail(one, tried, usage, 33, 77, outcome=outcome))
    return found


COMMON = {
    "request_id": "req_1",
    "surface": "openai",
    "operation": "chat",
    "stream": False,
    "key_id": "k",
    "scopes": ["agent:bot", "team:ml"],
    "started_ms": 0,
}


def test_the_record_of_an_answered_call() -> None:
    tried, price = attempt(), PRICES.price_at(DBRX, NOW_MS)
    assert told(call(), tried, ExactUsage(Tokens(7, 1, 2, 5, 3)), "answered") == COMMON | {
        "model_requested": DBRX,
        "model_served": DBRX,
        "endpoint": tried.model.endpoint,
        "provider": tried.endpoint.provider,
        "model_owner": "Databricks",
        "price_version": price.version,
        "prices": json.loads(price.wire),
        "cost_nano": "33",
        "held_nano": "40",
        "ended_ms": 77,
        "upstream_ms": 12,
        "outcome": "answered",
        "why": None,
        "state": "Warned",
        "balances": [[100, 40, 0, 1000, 1000], [4500, 60, 1, 5000, 5000]],
        "tokens": {"input": 7, "cached_input": 1, "cache_write": 2, "output": 5, "reasoning": 3},
    }


def test_the_record_of_a_call_by_another_model_without_a_tool_and_with_an_estimate() -> None:
    found = told(
        call(NASTY),
        attempt(other=True, why=NASTY, dropped=(NASTY, "é")),
        EstimatedUsage(Tokens(1), NASTY),
        FailureKind.BROKEN,
    )
    assert (found["model_requested"], found["model_served"]) == (NASTY, MIXTRAL)
    assert found["asked_prices"] == json.loads(PRICES.price_at(DBRX, NOW_MS).wire)
    assert found["why"] == found["estimated_because"] == NASTY and found["dropped_tools"] == [NASTY, "é"]
    assert found["outcome"] == FailureKind.BROKEN.value and "on_abort" not in found


def test_the_record_of_a_call_whose_client_left() -> None:
    found = told(call(), attempt(), None, ABORTED)
    assert found["on_abort"] == "estimate" and "tokens" not in found


def test_what_a_hold_remembers() -> None:
    assert json.loads(hold_detail(call(), NASTY)) == COMMON | {"model_requested": NASTY}


def lines_of(text: str) -> dict[str, str]:
    assert text.endswith("\r\n") and text.isascii()
    return dict(line.split(": ", 1) for line in text[:-2].split("\r\n"))


def test_the_headers_of_a_call() -> None:
    tried = attempt(why="Shortened: so %", dropped=("a,b", "c"))
    assert lines_of(call_lines(call("dbrx"), tried, standing_now(tried.admission), ["x"], 0.0123456, 1_500)) == {
        "X-Budget-Scope": "agent:ml",
        "X-Budget-State": "Warned",
        "X-Budget-Spent": "0.0000045",
        "X-Budget-Held": "0.00000006",
        "X-Budget-Limit": "0.000005",
        "X-Budget-Remaining": "0.0000005",
        "X-Budget-Reset": "never",
        "X-Request-Id": "req_1",
        "X-Model-Requested": "dbrx",
        "X-Model-Served": DBRX,
        "X-Overhead-Ms": "12.35",
        "X-Cost-Usd": "0.0000015",
        "X-Downgrade-Reason": "Shortened: so %",
        "X-Tools-Dropped": "a,b,c",
        "X-Circuit-Open": "x",
    }


def test_a_stream_has_no_cost_yet() -> None:
    tried = attempt()
    assert "X-Cost-Usd" not in call_lines(call(), tried, standing_now(tried.admission), [], 0.0, None)


def test_an_account_beyond_its_limit_has_nothing_left() -> None:
    standing = AccountStanding(terms("bot", limit=1000, hard=1200), 1100, 0, BudgetState.DEGRADED)
    assert lines_of(budget_lines(standing))["X-Budget-Remaining"] == "0.00"


@pytest.mark.parametrize("name", [NASTY, "a\r\nX-Cost-Usd: 0", "€"])
def test_no_name_breaks_a_line(name: str) -> None:
    tried = attempt(why=name, dropped=(name,))
    named = AccountStanding(terms(name, limit=1000), 0, 0, BudgetState.ACTIVE)
    assert len(lines_of(call_lines(call(name), tried, named, [name], 0.0, 1))) == 15
