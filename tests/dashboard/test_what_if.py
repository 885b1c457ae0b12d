"""The page of what-if: what its forms answer, and who may send them."""

import re
from urllib.parse import urlencode

import pytest

from budget.model import Budget
from budget.service import BudgetService
from core.scope import Scope
from dashboard.replay import replay
from dashboard.what_if import Replay, ReplayAsk
from gateway.chat import ChatFlow
from gateway.dry_run import DryRuns
from gateway.planner import Planner
from gateway.rulebook import Rulebooks
from ledger.duckdb_store import DuckDbLedger
from ledger.errors import LedgerUnavailable
from ledger.model import Position
from routing.adapters.registry import Upstreams
from routing.health import Health
from spendgate.ledger_access import OwnLedger
from tests.dashboard.conftest import Answer, Api
from tests.dashboard.test_pages import logged_in, send
from tests.ledger.events import Stream

CENT = 10**7


class Here:
    """Replays in this process; or the ledger is away."""

    def __init__(self, api: Api, ledger: DuckDbLedger | None) -> None:
        self._deps, self._ledger = api.deps, ledger

    async def replay(self, ask: ReplayAsk) -> Replay:
        if self._ledger is None:
            raise LedgerUnavailable("the ledger's process does not answer")
        deps = self._deps
        rules = Rulebooks(deps.routes, deps.prices, 1, deps.clock)
        return await replay(ask, OwnLedger(self._ledger), rules, deps.clock)


@pytest.fixture
async def page(api: Api, ledger: DuckDbLedger) -> "Page":
    """With a gateway and a ledger behind it: 20 calls by agent:bot, of a cent each."""
    deps = api.deps
    budgets = BudgetService(deps.store, deps.book, deps.clock, deps.ids, deps.refresh, owner="test")
    planner = Planner(deps.routes, deps.prices, deps.book, Health(deps.clock))
    flow = ChatFlow(planner, budgets, Upstreams(deps.routes, deps.clock), deps.clock)
    deps.dry_runs = DryRuns(flow, deps.keys, deps.clock, deps.refresh)
    stream = Stream()
    for _ in range(20):
        stream.settle(stream.hold(amount_nano=2 * CENT), cost_nano=CENT)
    ledger.append(stream.batch(Position()))
    deps.replays = Here(api, ledger)
    await api.add_budget(Budget("bots", Scope("agent", "bot"), 100 * CENT))
    return Page(api, await logged_in(api))


class Page:
    """One session."""

    def __init__(self, api: Api, cookie: str) -> None:
        self.api, self._cookie = api, cookie

    async def get(self, path: str) -> Answer:
        return await send(self.api, "GET", path, cookie=self._cookie)

    async def ask(self, form: str, *, token: str | None = None, **fields: str) -> Answer:
        if token is None:
            found = re.search(r'name="token" value="(\w+)"', (await self.get("/ui/what-if")).text)
            assert found
            token = found[1]
        sent = urlencode({"token": token, "ask": form} | fields)
        return await send(self.api, "POST", "/ui/what-if", sent, self._cookie)


def value_of(html: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', html)
    assert found
    return found[1]


async def test_a_call_is_tried_and_nothing_is_held(page: Page):
    answer = await page.ask("call", scopes="agent:bot", model="dbrx", prompt="Hello", maxTokens="10")
    assert answer.status == 200 and "</span> Served" in answer.text and "10 tokens" in answer.text
    assert value_of(answer.text, "scopes") == "agent:bot"
    await page.api.spend("agent:bot", 110 * CENT)
    degraded = await page.ask("call", scopes="agent:bot", model="dbrx", prompt="Hello", maxTokens="10")
    assert "Downgraded" in degraded.text and "agent:bot is at 110 % of its daily $1.00" in degraded.text
    await page.api.spend("agent:bot", 10 * CENT)
    stopped = await page.ask("call", scopes="agent:bot", model="dbrx", prompt="Hello", maxTokens="10")
    assert "Refused" in stopped.text and "budget_stopped" in stopped.text and "is used up" in stopped.text
    assert page.api.store.holds.keys() and not any(h.amount_nano for h in page.api.store.holds.values())


async def test_the_past_is_replayed(page: Page):
    answer = await page.ask("replay", budgetId="bots", limitUsd="0.10", hardCap="1", downgrade="none", days="1")
    assert answer.status == 200
    assert "$0.20" in answer.text and "$0.09" in answer.text, "nine fit, each needs two cents"
    assert "0 → 11" in answer.text and "daily $0.10 in place of daily $1.00" in answer.text
    new = await page.ask("replay", scope="agent:bot", limitUsd="0.05", models="dbrx=mixtral", days="3")
    assert new.status == 200 and "0 → 20" in new.text, "all of them on another model"
    assert 'data-chart="compare"' in new.text
    for scope in ("agent:nobody", "agent:*"):  # the one agent that there is has a daily budget of its own
        none = await page.ask("replay", scope=scope, limitUsd="1", scopes="team:ml")
        assert ("There were no such calls" in none.text) == (scope == "agent:nobody")
        assert ("0 calls" in none.text) == (scope == "agent:*")
        assert value_of(none.text, "scopes") == "team:ml", "the other form keeps what was typed"


async def test_what_is_wrong_is_said_beside_the_field(page: Page):
    for fields, name in (
        ({"budgetId": "bots", "limitUsd": "ten"}, "limitUsd"),
        ({"budgetId": "bots", "scope": "agent:a"}, "budgetId"),
        ({"scope": "agent:a", "limitUsd": "1", "models": "dbrx"}, "models"),
        ({"scope": "agent:a", "limitUsd": "1", "models": "dbrx=nothing"}, "models"),
        ({"scope": "agent:a", "limitUsd": "1", "days": "0"}, "days"),
    ):
        answer = await page.ask("replay", **fields)
        wrong = re.search(r'<input name="(\w+)"[^>]*aria-invalid', answer.text)
        assert answer.status == 400 and 'role="alert"' in answer.text
        assert wrong and wrong[1] == name
    call = await page.ask("call", scopes="bot", prompt="x")
    assert call.status == 400 and "must look like type:key" in call.text
    assert (await page.ask("replay", budgetId="gone")).status == 404


async def test_without_the_ledger_it_says_so(page: Page):
    page.api.deps.replays = Here(page.api, None)
    away = await page.ask("replay", budgetId="bots")
    assert away.status == 503 and "does not answer" in away.text
    page.api.deps.replays = None
    assert "SPENDGATE_LEDGER" in (await page.ask("replay", budgetId="bots")).text


async def test_only_its_own_forms_are_answered(page: Page):
    assert (await page.ask("call", token="0", scopes="agent:bot")).status == 403
    assert (await send(page.api, "POST", "/ui/what-if", "ask=call")).status == 303, "to the login"
    assert (await page.api.post("/api/simulate", {"call": {"prompt": "x"}}, Authorization="Bearer x")).status == 401


async def test_scopes_and_budgets_lead_to_it(page: Page):
    assert "/ui/what-if?scope=agent%3Abot" in (await page.get("/ui/scope/agent/bot")).text
    assert "/ui/what-if?budget=bots" in (await page.get("/ui/budgets/bots")).text
    of_scope = (await page.get("/ui/what-if?scope=agent%3Abot")).text
    assert (value_of(of_scope, "scopes"), value_of(of_scope, "budgetId")) == ("agent:bot", "bots")
    await page.api.add_budget(Budget("all", Scope("agent", "*"), 7 * CENT, cadence="weekly"))
    like = (await page.get("/ui/what-if?scope=agent%3Aother")).text
    assert (value_of(like, "budgetId"), value_of(like, "scope"), value_of(like, "limitUsd")) == (
        "",
        "agent:other",
        "0.07",
    )
    bare = (await page.get("/ui/what-if?scope=team%3Aml")).text
    assert value_of(bare, "scope") == "team:ml"
    assert (await page.get("/ui/what-if?scope=nonsense")).status == 400
    assert (await page.get("/ui/what-if?budget=none")).status == 404


async def test_names_stay_text(page: Page):
    text = (await page.ask("call", scopes='agent:"><script>alert(1)</script>', prompt="x")).text
    assert "<script>alert" not in text
