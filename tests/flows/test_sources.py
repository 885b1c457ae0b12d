"""Budgets from the environment, a YAML file and a real HTTP server that answers like Edge Config."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web

from budget.codec import dump_budget, load_budget
from budget.memory_store import MemoryBudgetStore
from budget.model import Budget, Reset, TopUp
from core.errors import ConfigError, Conflict, StoreUnavailable
from core.scope import Scope
from spendgate.edge_config import EdgeConfigPoller
from spendgate.sources import budgets_from_items, budgets_of, default_budget, load_budgets_yaml, sync

NOW_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
SPEC: dict[str, Any] = {"scopeType": "agent", "scopeKey": "bot", "limitUsd": "5"}


class StillClock:
    def now_ms(self) -> int:
        return NOW_MS

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def store() -> MemoryBudgetStore:
    return MemoryBudgetStore(lambda: NOW_MS)


def stored(store: MemoryBudgetStore) -> dict[str, Budget]:
    rows = {i: (v, t) for (kind, i), (v, t) in store.documents.items() if kind == "budget" and t is not None}
    return {i: load_budget(text, revision=version) for i, (version, text) in rows.items()}


def a_budget(budget_id: str, limit_nano: int = 1_000_000_000, source: str = "yaml", **more: Any) -> Budget:
    return Budget(budget_id, Scope("agent", budget_id), limit_nano, source=source, created_ms=1, updated_ms=1, **more)


# the environment


def test_the_default_budget() -> None:
    found = default_budget("25.50", Decimal("0.5"), "1.1", NOW_MS)
    assert (found.id, found.scope, found.limit_nano) == ("default", Scope("agent", "*"), 25_500_000_000)
    assert (found.cadence, found.zone, found.source) == ("daily", "UTC", "env")
    assert (found.policy.soft_cap, found.policy.hard_cap) == (Decimal("0.5"), Decimal("1.1"))


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (("x", 0.8, 1.2), "BUDGET_DEFAULT_LIMIT"),
        (("-1", 0.8, 1.2), "BUDGET_DEFAULT_LIMIT"),
        (("9000000", 0.8, 1.2), "BUDGET_DEFAULT_LIMIT"),
        ((1, 80, 1.2), "BUDGET_SOFT_CAP"),
        ((1, "", 1.2), "BUDGET_SOFT_CAP"),
        ((1, 0.8, 0.5), "BUDGET_HARD_CAP"),
    ],
)
def test_a_wrong_variable_is_named(values: tuple[Any, Any, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} "):
        default_budget(*values, NOW_MS)


# the YAML file

YAML = """
budgets:
  - {scopeType: agent, scopeKey: "*", limitUsd: 12.10, cadence: monthly, timeZone: Europe/Berlin}
  - id: team-a
    scope_type: team
    scope_key: a
    limit_usd: "3"
    soft_cap: 0.5
    downgrade: [{from: "*", to: mixtral}]
"""


def test_yaml_in_both_spellings() -> None:
    first, second = budgets_of(load_budgets_yaml(YAML, "b.yaml"), source="yaml", now_ms=NOW_MS)
    assert (first.id, first.limit_nano, first.zone) == ("yaml-agent-all-monthly", 12_100_000_000, "Europe/Berlin")
    assert (second.id, second.scope, second.limit_nano) == ("team-a", Scope("team", "a"), 3_000_000_000)
    assert second.policy.soft_cap == Decimal("0.5")
    assert second.policy.downgrade is not None
    assert second.source == "yaml"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "b.yaml is not YAML"),
        ("", "b.yaml: budgets must be a list"),
        ("budgets: {}", "b.yaml: budgets must be a list"),
        ("budgets: []\nbudget: []", "b.yaml: budget is not known"),
        ("budgets: [5]", r"b.yaml: budgets\[0\].body must be"),
        (YAML + "  - {scopeType: agent, scopeKey: a}", r"b.yaml: budgets\[2\].limitUsd is not valid"),
        (YAML + "  - {scopeType: agent, scopeKey: a, limitUsd: much}", r"b.yaml: budgets\[2\].limitUsd must be"),
        (YAML + "  - {scopeType: agent, scopeKey: a, limitUsd: 1, cadence: x}", r"b.yaml: budgets\[2\].cadence must"),
        (YAML + "  - {scopeType: agent, scopeKey: a, limitUsd: 1, zork: x}", r"b.yaml: budgets\[2\].zork is not"),
        (YAML + "  - {id: team-a, scopeType: agent, scopeKey: a, limitUsd: 1}", r"budgets\[2\].id team-a is taken"),
        (YAML + '  - {scopeType: agent, scopeKey: "*", limitUsd: 1, cadence: monthly}', r"budgets\[2\].id yaml-agent"),
    ],
)
def test_wrong_yaml_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_budgets_yaml(text, "b.yaml")


async def test_sync_writes_only_what_differs(store: MemoryBudgetStore) -> None:
    wanted = [a_budget("a"), a_budget("b")]
    assert await sync(store, wanted, "yaml") == 2
    version = store.version
    assert await sync(store, [replace(b, created_ms=9, updated_ms=9) for b in wanted], "yaml") == 0
    assert store.version == version
    assert await sync(store, [a_budget("a"), a_budget("b", 7)], "yaml") == 1
    assert stored(store)["b"].limit_nano == 7
    assert await sync(store, [a_budget("a")], "yaml") == 1
    assert list(stored(store)) == ["a"]
    assert await sync(store, [a_budget("a"), a_budget("b")], "yaml") == 1


async def test_sync_keeps_what_was_given_on_top(store: MemoryBudgetStore) -> None:
    top_up = TopUp("t", "2026-11-23", None, 5, NOW_MS + 1000, "launch", NOW_MS)
    reset = Reset("2026-11-23", None, "a bug", NOW_MS)
    past = Reset("2026-11-20", None, "old", 1)
    await store.put("budget", "a", dump_budget(a_budget("a", top_ups=(top_up,), resets=(past, reset))))
    await sync(store, [replace(a_budget("a", 9), created_ms=NOW_MS, updated_ms=NOW_MS)], "yaml")
    found = stored(store)["a"]
    assert (found.limit_nano, found.top_ups, found.resets) == (9, (top_up,), (reset,))
    assert (found.created_ms, found.updated_ms) == (1, NOW_MS)


async def test_sync_never_touches_other_sources(store: MemoryBudgetStore) -> None:
    await store.put("budget", "mine", dump_budget(a_budget("mine", source="api")))
    await store.put("key", "k", b"{}")
    version = store.version
    with pytest.raises(ConfigError, match="mine of yaml exists already and belongs to api"):
        await sync(store, [a_budget("new"), a_budget("mine")], "yaml")
    assert store.version == version
    assert await sync(store, [], "yaml") == 0
    assert store.version == version


async def test_two_workers_at_once(store: MemoryBudgetStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put = store.put

    async def overtaken(kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        if ("budget", document_id) not in store.documents:
            await put(kind, document_id, text)
            raise Conflict("overtaken")
        return await put(kind, document_id, text, expected=expected)

    monkeypatch.setattr(MemoryBudgetStore, "put", lambda _, *a, **k: overtaken(*a, **k))
    assert await sync(store, [a_budget("a"), a_budget("b")], "yaml") == 0
    assert sorted(stored(store)) == ["a", "b"]


def test_shapes_of_items() -> None:
    def ids(answer: object) -> list[str | None]:
        return [spec.id for spec in budgets_from_items(answer, "edge")]

    assert ids({"budgets": [SPEC], "greeting": "hello"}) == ["edge-agent-bot-daily"]
    assert ids({"budgets": {"x": SPEC, "y": SPEC | {"id": "z"}}}) == ["x", "z"]
    assert ids({"budget_one": SPEC, "budget-two": SPEC, "budgetary": 5}) == ["one", "two"]
    assert ids([{"key": "budgets", "value": {"x": SPEC}, "edgeConfigId": "ecfg_1"}]) == ["x"]
    assert ids({"budgets": []}) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "edge has no item budgets"),
        ({"greeting": "hello"}, "edge has no item budgets"),
        ("hello", "edge must be an object"),
        ({"budgets": "none"}, "edge: budgets must be a list"),
        ({"budgets": {"x": {}}}, "edge: budgets.x.scopeType is not valid"),
        ({"budgets": {"X y": SPEC}}, "edge: budgets.X y.id is not valid"),
        ({"budget_x": SPEC | {"limitUsd": "much"}}, "edge: budget_x.limitUsd must be a decimal"),
        ({"budget_x": SPEC, "budgets": {"x": SPEC}}, "id x is taken"),
    ],
)
def test_wrong_items_are_named(answer: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        budgets_from_items(answer, "edge")


@pytest.mark.parametrize(
    ("url", "address", "token"),
    [
        ("https://edge-config.vercel.com/ecfg_1?token=t", "https://edge-config.vercel.com/ecfg_1/items", "t"),
        ("https://edge-config.vercel.com/ecfg_1/items?token=t", "https://edge-config.vercel.com/ecfg_1/items", "t"),
        ("edge-config:id=ecfg_1&token=t", "https://edge-config.vercel.com/ecfg_1/items", "t"),
        ("http://host:1/ecfg_1?token=t&a=b", "http://host:1/ecfg_1/items?token=t&a=b", "t"),
        ("https://host/x/items", "https://host/x/items", None),
    ],
)
def test_addresses(store: MemoryBudgetStore, url: str, address: str, token: str | None) -> None:
    poller = EdgeConfigPoller(url, store, StillClock())
    assert (str(poller._items_url), poller.token) == (address, token)


@pytest.mark.parametrize(
    "url", ["", "ecfg_1", "ftp://host/x?token=secret", "https://host?token=secret", "https://[?token=secret"]
)
def test_a_wrong_address_is_refused_without_its_token(store: MemoryBudgetStore, url: str) -> None:
    with pytest.raises(ConfigError, match="EDGE_CONFIG must look like") as caught:
        EdgeConfigPoller(url, store, StillClock())
    assert "secret" not in str(caught.value)


@dataclass
class EdgeServer:
    """Answers as Edge Config does: items as one object, an ETag, 304 to a caller that has it."""

    items: object = field(default_factory=lambda: {"budgets": {"x": SPEC}})
    body: bytes | None = None
    status: int = 200
    hang: asyncio.Event | None = None
    answers: list[int] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.hang:
            await self.hang.wait()
        response = self._response(request)
        self.answers.append(response.status)
        return response

    def _response(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer hush":
            return web.Response(status=401)
        if self.status != 200:
            return web.Response(status=self.status, headers={"Location": "/elsewhere"})
        body = self.body if self.body is not None else orjson.dumps(self.items)
        etag = f'"{hash(body)}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=body, headers={"ETag": etag}, content_type="application/json")


@pytest.fixture
async def edge() -> AsyncIterator[EdgeServer]:
    server = EdgeServer()
    app = web.Application()
    app.router.add_get("/ecfg_1/items", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}/ecfg_1?token=hush"
        yield server
        await runner.cleanup()


@pytest.fixture
async def poller(edge: EdgeServer, store: MemoryBudgetStore) -> AsyncIterator[EdgeConfigPoller]:
    poller = EdgeConfigPoller(edge.url, store, StillClock())
    yield poller
    await poller.close()


@pytest.fixture(autouse=True)
def no_token_in_logs(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert "hush" not in caplog.text


async def test_a_change_arrives_and_nothing_else_is_written(
    poller: EdgeConfigPoller, edge: EdgeServer, store: MemoryBudgetStore
) -> None:
    assert await poller.poll_once()
    assert stored(store)["x"].source == "edge"
    version = store.version
    assert not await poller.poll_once()
    assert edge.answers == [200, 304]
    edge.items = {"budgets": {"x": SPEC | {"limitUsd": 6}, "y": SPEC}}
    assert await poller.poll_once()
    assert stored(store)["x"].limit_nano == 6_000_000_000
    assert store.version == version + 2
    edge.items = {"budgets": {"y": SPEC}}
    assert await poller.poll_once()
    assert list(stored(store)) == ["y"]
    assert poller.failures == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"body": b"<html>"}, "not JSON"),
        ({"body": b" " * (1 << 20) + b"{}"}, "over 1048576 bytes"),
        ({"items": {}}, "no item budgets"),
        ({"items": {"budgets": [{}]}}, "scopeType"),
        ({"items": {"budgets": {"taken": SPEC}}}, "belongs to api"),
        ({"status": 500}, "status 500"),
        ({"status": 302}, "status 302"),
        ({"status": 304}, "status 304"),
    ],
)
async def test_the_last_good_copy_serves_on(
    poller: EdgeConfigPoller,
    edge: EdgeServer,
    store: MemoryBudgetStore,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, Any],
    reason: str,
) -> None:
    await store.put("budget", "taken", dump_budget(a_budget("taken", source="api")))
    await poller.poll_once()
    version, etag = store.version, poller._etag
    poller._etag = None if change.get("status") == 304 else etag  # a 304 that nobody asked for
    for name, value in change.items():
        setattr(edge, name, value)
    assert not await poller.poll_once()
    assert poller.failures == 1
    assert store.version == version
    assert reason in caplog.text
    assert "the last good budgets stay in force" in caplog.text
    edge.items, edge.body, edge.status = {"budgets": {"x": SPEC}}, None, 200
    await poller.poll_once()
    assert poller.failures == 0


async def test_away_and_back(
    poller: EdgeConfigPoller, edge: EdgeServer, store: MemoryBudgetStore, caplog: pytest.LogCaptureFixture
) -> None:
    await poller.poll_once()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: connecting is refused
        away = EdgeConfigPoller(f"http://127.0.0.1:{unused.getsockname()[1]}/e?token=hush", store, StillClock())
        assert not await away.poll_once()
        await away.close()
    assert "ClientConnectorError" in caplog.text
    edge.hang = asyncio.Event()
    poller.timeout_s = 0.05
    assert not await poller.poll_once()
    assert "no complete answer within 0.05 s" in caplog.text
    edge.hang.set()
    poller.timeout_s = 5
    assert not await poller.poll_once()
    assert poller.failures == 0
    assert "is readable again" in caplog.text
    assert list(stored(store)) == ["x"]


async def test_a_store_that_was_away_gets_the_budgets_later(
    poller: EdgeConfigPoller, edge: EdgeServer, store: MemoryBudgetStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any, **__: Any) -> int:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryBudgetStore, "put", away)
        assert not await poller.poll_once()
    assert await poller.poll_once()
    assert edge.answers == [200, 200]


async def test_an_emptied_store_gets_the_last_good_copy(
    poller: EdgeConfigPoller, edge: EdgeServer, store: MemoryBudgetStore
) -> None:
    await poller.poll_once()
    await store.put("budget", "x", None)
    assert await poller.poll_once()
    assert edge.answers == [200, 304]
    assert list(stored(store)) == ["x"]


def test_delays_grow_to_a_minute(store: MemoryBudgetStore) -> None:
    poller = EdgeConfigPoller("https://host/x", store, StillClock())
    for failures, most_s in ((0, 5), (1, 10), (2, 20), (5, 60), (10_000, 60)):
        poller.failures = failures
        assert most_s * 0.8 <= poller.next_delay_s() <= most_s


async def test_run_polls_until_cancelled(poller: EdgeConfigPoller, edge: EdgeServer) -> None:
    poller.interval_s = 0.001
    task = asyncio.create_task(poller.run())
    async with asyncio.timeout(5):
        while len(edge.answers) < 3:
            await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert poller._session is None
    assert edge.answers[:3] == [200, 304, 304]
