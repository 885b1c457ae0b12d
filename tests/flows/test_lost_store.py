"""The store loses its memory under a running gateway: it is noticed, refused, rebuilt, and the numbers go on."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.bill import bill_nano
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right, events_of
from tests.support.simulated import Simulated, running_simulator
from tests.support.stores import client_of, running_redis
from tests.support.waiting import eventually

MODEL = "databricks-dbrx-instruct"


@pytest.fixture
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


def settings(simulator: Simulated, **more: str) -> dict[str, str]:
    own = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x", "SPENDGATE_WORKERS": "2"}
    return own | more


def store_of(gateway: RunningGateway) -> redis.Redis:
    folder = Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "valkey"
    return redis.Redis(unix_socket_path=str(folder / "valkey.sock"), decode_responses=True, protocol=2)


def calls(gateway: RunningGateway, count: int) -> list[Answer]:
    answers = [gateway.chat(agent="victim", maxTokens=20) for _ in range(count)]
    assert {a.status for a in answers} == {200}
    return answers


def serves(gateway: RunningGateway) -> bool:
    return gateway.chat(agent="victim", maxTokens=20).status == 200


def balance(gateway: RunningGateway) -> tuple[Any, Any, Any]:
    spend = gateway.spend("victim")
    return spend["spent"], spend["held"], spend["limit"]


def money(gateway: RunningGateway) -> list[tuple[str, ...]]:
    """What was posted for which hold, and when."""
    posted = [e for e in events_of(gateway) if "cost_nano" in e]
    return sorted((e["at_ms"], e["type"], e["hold"], e["cost_nano"], e["basis"]) for e in posted)


def test_a_budget_that_was_just_made_outlives_the_stores_memory(simulator: Simulated) -> None:
    with running_gateway(**settings(simulator)) as gateway, store_of(gateway) as store:
        for number in range(3):
            gateway.put_budget(id=f"b-{number}", scopeType="agent", scopeKey="victim", limitUsd=f"{number + 1}")
            store.flushall()
            eventually(lambda: serves(gateway), "the store is rebuilt", 10)
        found = gateway.request("GET", "/api/budgets", key="admin").json["budgets"]
        assert {b["id"] for b in found} >= {"b-0", "b-1", "b-2"}


def test_flushall_in_mid_traffic(simulator: Simulated) -> None:
    with running_gateway(**settings(simulator)) as gateway, store_of(gateway) as store:
        gateway.put_budget(id="more", scopeType="agent", scopeKey="victim", limitUsd="7.50", cadence="monthly")
        calls(gateway, 10)
        simulator.set_fault(MODEL, fault="slow", delay_ms=1500, times=1)
        running: list[Answer] = []
        thread = threading.Thread(target=lambda: running.append(gateway.chat(agent="victim", maxTokens=20)))
        thread.start()
        eventually(lambda: simulator.in_flight() == 1, "a call is under way")
        before = simulator.bill()["calls"]
        store.flushall()
        refused = gateway.chat(agent="victim", maxTokens=20)
        assert (refused.status, refused.json["error"]["code"]) == (503, "store_lost")
        assert int(refused.headers["retry-after"]) > 0
        assert simulator.bill()["calls"] == before, "nothing was sent upstream"
        thread.join()
        assert running[0].status == 200, "what was running is answered"
        eventually(lambda: serves(gateway), "the store is rebuilt", 10)
        eventually(lambda: balance(gateway)[1] == 0, "nothing is held")
        billed = bill_nano(simulator.bill(recent=100), agent="victim")
        # What ended while the store was in doubt waits at its worker, and is brought when that has caught up.
        eventually(lambda: round(balance(gateway)[0] * 10**9) == billed, "the books are the bill", 5)
        assert {b["id"] for b in gateway.request("GET", "/api/budgets", key="admin").json["budgets"]} >= {"more"}
        settled = [e for e in assert_books_are_right(gateway) if e["type"] == "settle"]
        assert len(settled) == simulator.bill()["calls"], "each call has its event, once"
        assert gateway.request("GET", "/readyz", key=None).status == 200


def test_a_store_that_is_gone_at_the_next_start(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator)) as first:
        calls(first, 5)
        events = money(first)
        before = balance(first)
    shutil.rmtree(tmp_path / "data" / "valkey")
    with running_gateway(tmp_path, **settings(simulator)) as second:
        assert balance(second) == before
        assert money(second) == events
        eventually(lambda: serves(second), "it opens", 5)
        assert_books_are_right(second)


def test_an_old_file_of_the_store_at_the_next_start(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator)) as first:
        calls(first, 3)
        spent_then = balance(first)[0]
    shutil.copytree(tmp_path / "data" / "valkey", tmp_path / "backup")
    with running_gateway(tmp_path, **settings(simulator)) as second:
        calls(second, 4)
        before = balance(second)
        assert before[0] > spent_then
    shutil.rmtree(tmp_path / "data" / "valkey")
    (tmp_path / "backup").rename(tmp_path / "data" / "valkey")
    with running_gateway(tmp_path, **settings(simulator)) as third:
        assert balance(third) == before
        eventually(lambda: serves(third), "it opens", 5)
        assert round(balance(third)[0] * 10**9) == bill_nano(simulator.bill(recent=100), agent="victim")
        assert_books_are_right(third)


def test_another_deployments_store_is_refused(simulator: Simulated, tmp_path: Path) -> None:
    with running_redis() as ours, running_redis() as theirs:
        with running_gateway(tmp_path, **settings(simulator, REDIS_URL=ours.url)) as first:
            assert first.request("GET", "/readyz", key=None).status == 200
        with running_gateway(**settings(simulator, REDIS_URL=theirs.url)):
            pass
        with (
            pytest.raises(AssertionError, match="the store has other books than"),
            running_gateway(tmp_path, **settings(simulator, REDIS_URL=theirs.url)),
        ):
            pass
        with client_of(theirs) as client:
            assert client.hget("sg:{main}:epoch", "doubt") is None, "theirs is left alone"
