"""What the stores on a server do when the server is away, full, read-only, restarted or slow."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import RedisCluster

from budget.book import BudgetBook
from budget.connect import connect
from budget.model import Budget, HoldStatus, ResolveMode
from budget.ports import ACCOUNT_KEPT_AFTER_END_MS
from budget.redis_store import RedisBudgetStore
from budget.service import BudgetService, Plan
from core.clock import SystemClock
from core.errors import StoreUnavailable
from core.ids import RandomIds
from core.period import Period
from core.scope import Scope
from tests.budget.builders import Store, ask, end, events, fixed, held, spent_and_held, terms, wall_ms
from tests.support.stores import RunningServer, client_of, running_cluster, running_redis

ACCOUNT = terms(limit=1000)


@pytest.fixture
def server() -> Iterator[RunningServer]:
    """A server of this test's own, to be broken."""
    with running_redis() as running:
        yield running


@pytest.fixture
async def broken_store(server: RunningServer) -> AsyncIterator[RedisBudgetStore]:
    """A store on `server`, with a hold `h1` of 30 made while all was well."""
    store = RedisBudgetStore(connect(f"{server.url}?socket_timeout=0.3&socket_connect_timeout=0.3"))
    await store.found("ep_1")
    await held(store, "h1", 30, ACCOUNT)
    yield store
    await store.close()


async def assert_every_verb_is_unavailable(store: Store) -> None:
    for call in (
        lambda: store.reserve(ask("h2", [ACCOUNT], fixed(1))),
        lambda: end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20),
        lambda: store.extend(["h1"], 1000),
        lambda: store.find("h1"),
        lambda: store.due(10),
        lambda: store.balances([ACCOUNT.id]),
        lambda: store.current_accounts(0),
        lambda: store.changes_since(-1),
        lambda: store.put("budget", "a", b"{}"),
        lambda: store.events(),
    ):
        with pytest.raises(StoreUnavailable):
            await call()


async def assert_writes_are_refused_with_nothing_partial(store: RedisBudgetStore) -> None:
    for call in (
        lambda: store.reserve(ask("h2", [ACCOUNT, terms("new")], fixed(1, "11"))),
        lambda: end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20),
        lambda: end(store, ResolveMode.POST, "wh1", [ACCOUNT], 20, with_terms=True),
        lambda: store.put("budget", "a", b"{}"),
    ):
        with pytest.raises(StoreUnavailable):
            await call()
    assert await spent_and_held(store, ACCOUNT) == (0, 30)
    assert await spent_and_held(store, terms("new")) == (0, 0)
    assert await store.find("h2") is None
    assert await events(store) == []
    assert await store.changes_since(0) == (0, [])


async def assert_all_is_well(store: RedisBudgetStore) -> None:
    await held(store, "h2", 1, ACCOUNT)
    await end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)
    assert await spent_and_held(store, ACCOUNT) == (20, 1)


async def test_a_server_that_is_gone(server: RunningServer, broken_store: RedisBudgetStore) -> None:
    server.kill()
    with pytest.raises(StoreUnavailable):
        await broken_store.ping()
    await assert_every_verb_is_unavailable(broken_store)


async def test_a_server_that_hangs_and_returns(server: RunningServer, broken_store: RedisBudgetStore) -> None:
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(2):
            with pytest.raises(StoreUnavailable):
                await broken_store.find("h1")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    await assert_all_is_well(broken_store)


async def test_a_cluster_that_is_gone() -> None:
    with running_cluster() as cluster:
        known = RedisBudgetStore(connect(cluster.url))
        fresh = RedisBudgetStore(connect(cluster.url))
        await known.found("ep_1")
        await held(known, "h1", 30, ACCOUNT)
        for node in cluster.nodes:
            node.kill()
        await assert_every_verb_is_unavailable(known)
        await assert_every_verb_is_unavailable(fresh)
        await known.close()
        await fresh.close()


async def test_a_full_server_admits_nothing_and_still_settles(
    server: RunningServer, broken_store: RedisBudgetStore
) -> None:
    with client_of(server) as admin:
        admin.config_set("maxmemory-policy", "noeviction")
        admin.config_set("maxmemory", "1")
        for call in (
            lambda: broken_store.reserve(ask("h2", [ACCOUNT, terms("new")], fixed(1, "11"))),
            lambda: broken_store.put("budget", "a", b"{}"),
        ):
            with pytest.raises(StoreUnavailable):
                await call()
        assert await spent_and_held(broken_store, ACCOUNT) == (0, 30)
        assert await broken_store.find("h2") is None
        assert await broken_store.changes_since(0) == (0, [])
        assert await broken_store.extend(["h1"], 60_000) == []
        await end(broken_store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)
        assert await spent_and_held(broken_store, ACCOUNT) == (20, 0), "what was charged is posted, memory or not"
        admin.config_set("maxmemory", "0")
    await held(broken_store, "h2", 1, ACCOUNT)


@pytest.mark.parametrize("script", sorted(files("budget").joinpath("lua").iterdir(), key=str), ids=lambda p: p.name)
def test_a_full_server_knows_before_the_first_write_what_a_script_may(script: Path) -> None:
    """Only of a script that declares its engine does a server know that; what ends a hold or frees some may use all."""
    if script.name in ("epoch.lua", "hold.lua"):
        return  # parts of the others
    needs_it = script.name in ("resolve.lua", "extend.lua", "restore.lua", "agree.lua", "trim.lua")
    assert script.read_text().startswith("#!lua flags=allow-oom\n" if needs_it else "#!lua\n")


async def test_a_replica_admits_nothing_and_keeps_all(server: RunningServer, broken_store: RedisBudgetStore) -> None:
    with client_of(server) as admin:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        await assert_writes_are_refused_with_nothing_partial(broken_store)
        admin.execute_command("REPLICAOF", "NO", "ONE")
    await assert_all_is_well(broken_store)


async def test_a_primary_without_its_replica_admits_nothing_and_keeps_all(
    server: RunningServer, broken_store: RedisBudgetStore
) -> None:
    with client_of(server) as admin:
        admin.config_set("min-replicas-to-write", "1")
        await assert_writes_are_refused_with_nothing_partial(broken_store)
        admin.config_set("min-replicas-to-write", "0")
    await assert_all_is_well(broken_store)


async def test_scripts_that_the_server_forgot_are_loaded_again(server_store: RedisBudgetStore) -> None:
    client = server_store._client

    async def forget() -> None:
        where = {"target_nodes": RedisCluster.ALL_NODES} if isinstance(client, RedisCluster) else {}
        await client.execute_command("SCRIPT FLUSH", **where)

    await forget()
    await held(server_store, "h1", 30, ACCOUNT)
    await forget()
    assert await server_store.extend(["h1"], 3_600_000) == []
    await forget()
    await server_store.put("budget", "a", b"{}")
    await forget()
    await end(server_store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)
    assert await spent_and_held(server_store, ACCOUNT) == (20, 0)


@pytest.mark.parametrize("verb", ["find", "due", "balances", "current_accounts", "changes_since", "events"])
async def test_any_verb_may_be_a_clients_first(cluster_url: str, verb: str) -> None:
    store = RedisBudgetStore(connect(cluster_url), namespace=f"first-{verb}")
    arguments: dict[str, list[Any]] = {
        "find": ["h"],
        "due": [1],
        "balances": [["a"]],
        "current_accounts": [0],
        "changes_since": [0],
    }
    founder = RedisBudgetStore(connect(cluster_url), namespace=f"first-{verb}")
    await founder.found("ep_1")
    await founder.close()
    assert not (await getattr(store, verb)(*arguments.get(verb, []))) or verb in ("balances", "changes_since")
    await store.close()


async def test_what_has_ended_is_forgotten_in_time_and_what_is_open_never(
    server_store: RedisBudgetStore,
) -> None:
    end_ms = wall_ms() + 3_600_000
    account = terms(period=Period("p", 0, end_ms))
    client, hold = server_store._client, server_store.key("hold", "h1")
    await held(server_store, "h1", 30, account)
    assert await client.pttl(hold) == -1
    assert await client.pexpiretime(server_store.key("a", account.id)) == end_ms + ACCOUNT_KEPT_AFTER_END_MS
    await end(server_store, ResolveMode.SETTLE, "h1", [account], 20)
    assert 86_000_000 < await client.pttl(hold) <= 86_400_000
    refused_only = terms("none", limit=0, period=Period("p", 0, end_ms))
    await server_store.reserve(ask("h2", [refused_only], fixed(1)))
    assert await client.pttl(server_store.key("a", refused_only.id)) > 0


async def test_namespaces_share_nothing(server_store: RedisBudgetStore) -> None:
    other = RedisBudgetStore(server_store._client, namespace="other")
    await other.found("ep_2")
    await held(server_store, "h1", 30, ACCOUNT)
    assert await other.find("h1") is None
    assert await spent_and_held(other, ACCOUNT) == (0, 0)


async def test_a_reserve_that_arrives_after_its_caller_gave_up_holds_nothing(
    server: RunningServer, broken_store: RedisBudgetStore
) -> None:
    """The server hangs, the service gives up and refuses; what it sent is still in the server's socket."""
    clock = SystemClock()

    async def refresh() -> None:
        return None

    book = BudgetBook([Budget("b", Scope("agent", "bot"), 1000, cadence="total")])
    service = BudgetService(broken_store, book, clock, RandomIds(clock), refresh, "worker")

    def plan(now_ms: int) -> Plan:
        accounts = book.accounts([Scope("agent", "bot")], now_ms)
        return Plan(accounts, tuple(a.id for a in accounts), (fixed(50),))

    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable):
            await service.reserve(plan, hold_id="h2")
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    assert [r.hold_id for r in service.waiting] == ["h2"]
    assert await service.flush() == 0
    found = await broken_store.find("h2")
    assert found is not None
    assert found.status is HoldStatus.VOIDED
    assert await spent_and_held(broken_store, ACCOUNT) == (0, 30)
