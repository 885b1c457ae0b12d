"""What keeps a worker from growing: its memories are bounded, and a call leaves nothing behind."""

import asyncio
import contextlib
import gc
import socket
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import uvicorn

import gateway.auth
import gateway.planner
from bench.growth.cost import axes
from bench.growth.soak import slope
from budget.book import BudgetBook
from budget.connect import connect
from budget.model import Budget
from budget.redis_store import RedisBudgetStore
from budget.service import Admission
from core.clock import SystemClock
from core.keys import ApiKey, KeyRing, KeyRole, digest_of, new_key_text
from core.scope import Chain, Scope
from gateway.auth import Authenticator
from gateway.call import Call
from gateway.chat import OpenedStream
from gateway.connection import Connection, connections
from gateway.cycle import HotCycle
from gateway.planner import Planner
from routing.health import Health
from routing.routes_file import default_routes_text, load_routes
from spendgate.bootstrap import prepare
from spendgate.compose import Worker, build
from spendgate.settings import read_settings
from telemetry.prices import PriceBook, default_prices_text, load_prices
from tests.support.simulated import running_simulator
from tests.support.stores import running_valkey

NOW_MS = 1_795_000_000_000
ALL = Budget("all", Scope("agent", "*"), 10**12)
#: What a call is made of in a worker.
PER_CALL = (Call, HotCycle, Connection, Admission, OpenedStream)


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


async def test_calls_leave_nothing_behind_in_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made_by_calls()  # by other tests of this process
    with running_simulator() as simulator, running_valkey() as store:
        monkeypatch.setenv("DATABRICKS_BASE_URL", simulator.base_url)
        monkeypatch.setenv("DATABRICKS_API_KEY", "x")
        monkeypatch.setenv("SPENDGATE_DATA_DIR", str(tmp_path))
        async with serving(store.url) as (worker, url, key):
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as session:
                for number in range(20):
                    await asyncio.gather(*(ask(session, url, number * 10 + beside) for beside in range(10)))
            await worker.budgets.all_ended()
            await asyncio.sleep(0.1)  # the connections' ends
            assert not worker.budgets.open_holds and not worker.budgets.sending and not worker.budgets.waiting
            assert not made_by_calls() - before


def made_by_calls() -> Counter[str]:
    """How many there are of each."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, PER_CALL))


async def ask(session: aiohttp.ClientSession, url: str, number: int) -> None:
    """A call that is answered, a stream, one that its client leaves, or one that is refused."""
    body = {"prompt": "hi", "scopeType": "agent", "scopeKey": f"a-{number % 3}", "stream": number % 4 == 1}
    if number % 4 == 3:
        body["prompt"] = ""
    async with session.post(f"{url}/agent/chat", json=body) as answer:
        assert answer.status == (400 if number % 4 == 3 else 200)
        if number % 8 == 1:
            answer.close()
        else:
            await answer.read()


@contextlib.asynccontextmanager
async def serving(redis_url: str) -> AsyncIterator[tuple[Worker, str, str]]:
    """A worker in this process: its parts, its address, and a key of an agent."""
    settings, clock = read_settings({}), SystemClock()
    keeper = RedisBudgetStore(connect(redis_url))
    prepared = await prepare(settings, redis_url, clock, lambda: keeper.found("ep_test"))
    await keeper.close()
    worker, app = build(settings, redis_url)
    protocol = connections(worker.hot, settings.client_timeout_s)
    server = uvicorn.Server(uvicorn.Config(app, http=protocol, lifespan="on", log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    running = asyncio.create_task(server.serve([listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield worker, f"http://127.0.0.1:{listener.getsockname()[1]}", prepared.agent_key or ""
    finally:
        server.should_exit = True
        await running
