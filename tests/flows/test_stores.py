"""The same gateway on stores of the user's own: Redis 7, a cluster, through Sentinel; and one that could lose money."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.gateway import running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated
from tests.support.stores import running_cluster, running_redis, running_sentinel

Store = Callable[[], contextlib.AbstractContextManager[str]]
SAFE = {"appendonly": "yes"}


@contextlib.contextmanager
def safe_redis() -> Iterator[str]:
    with running_redis(SAFE) as server:
        yield server.url


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    with running_cluster() as running:
        yield running.url


@contextlib.contextmanager
def sentinel() -> Iterator[str]:
    with running_sentinel() as running:
        yield running.url


@pytest.mark.parametrize("store", [safe_redis, cluster, sentinel], ids=lambda s: s.__name__)
def test_calls_caps_and_restarts(
    store: Callable[[], contextlib.AbstractContextManager[str]], simulator: Simulated
) -> None:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    with store() as url:
        settings = upstream | {"REDIS_URL": url, "SPENDGATE_ALLOW_UNSAFE_STORE": "true"}
        with running_gateway(**settings) as gateway:
            made = gateway.request(
                "POST", "/api/keys", {"name": "k", "role": "agent", "scopes": ["agent:it"]}, key="admin"
            )
            key = made.json["key"]
            gateway.put_budget(scopeType="agent", scopeKey="it", limitUsd="0.001", allowDowngrade=False)
            body = {"prompt": "Hello", "maxTokens": 100}
            answers = [gateway.request("POST", "/agent/chat", body, key=key) for _ in range(6)]
            assert answers[0].status == 200 and answers[-1].status == 402
            spent = gateway.spend("it")["spent"]
            assert spent == pytest.approx(sum(a.json["cost"] for a in answers if a.status == 200))
            assert_books_are_right(gateway)
        with running_gateway(**settings) as again:
            assert again.spend("it")["spent"] == spent
            assert again.request("POST", "/agent/chat", body, key=key).status == 402


def test_a_store_that_can_lose_money_is_refused(simulator: Simulated, tmp_path: Path) -> None:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    with running_redis({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}) as server:
        with running_gateway(REDIS_URL=server.url, SPENDGATE_ALLOW_UNSAFE_STORE="true", **upstream) as gateway:
            environment = gateway.environment | {"SPENDGATE_ALLOW_UNSAFE_STORE": "false", "PORT": "0"}
            assert "can lose money" in gateway.log.read_text(), "allowed, and said"
        refused = subprocess.run(
            [sys.executable, "-m", "spendgate", "serve"], env=environment, capture_output=True, text=True, timeout=30
        )
    assert refused.returncode == 1
    assert "the store can lose money" in refused.stderr and "allkeys-lru" in refused.stderr
