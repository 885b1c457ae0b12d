"""The numbers of all workers together, and the books verified on a timer."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.simulated import Simulated, running_simulator
from tests.support.waiting import eventually

MODEL = "databricks-dbrx-instruct"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    own = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    own |= {"SPENDGATE_WORKERS": "2", "SPENDGATE_VERIFY_EVERY_S": "0.3", "SPENDGATE_LEASE_S": "1"}
    with running_gateway(**own) as running:
        yield running


def number(gateway: RunningGateway, name: str) -> float:
    answer = gateway.request("GET", "/metrics", key=None)
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    (line,) = [text for text in answer.body.decode().splitlines() if text.startswith(f"{name} ")]
    return float(line.split()[1])


def test_drift_is_noticed_while_calls_go_on(gateway: RunningGateway) -> None:
    assert gateway.chat(agent="drifts", maxTokens=5).status == 200
    runs = number(gateway, "spendgate_verify_runs_total")
    eventually(lambda: number(gateway, "spendgate_verify_runs_total") > runs + 1, "the books are verified")
    assert number(gateway, "spendgate_verify_drift") == 0
    socket = Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "valkey" / "valkey.sock"
    with redis.Redis(unix_socket_path=str(socket), decode_responses=True) as store:
        (account,) = [str(a) for a in store.scan_iter("sg:{main}:a:*:drifts")]
        store.hincrby(account, "spent", 1)
        eventually(lambda: number(gateway, "spendgate_verify_drift") == 1, "the drift shows")
        assert "the books drift: " in gateway.log.read_text()
        store.hincrby(account, "spent", -1)
    eventually(lambda: number(gateway, "spendgate_verify_drift") == 0, "the drift is gone")
    assert time.time() - number(gateway, "spendgate_verified_timestamp_seconds") < 5


def test_an_overage_is_counted(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(MODEL, fault="huge_usage", usage_tokens=5000, times=1)
    assert gateway.chat(agent="over", maxTokens=10).status == 200
    eventually(lambda: number(gateway, "spendgate_overages_total") == 1, "it is counted")
    assert number(gateway, "spendgate_overage_nanodollars_total") > 0


def test_what_runs_and_what_expired(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(MODEL, fault="hang", times=1)

    def call() -> None:
        with contextlib.suppress(OSError):  # the gateway dies under it
            gateway.chat(agent="victim", maxTokens=50)

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: number(gateway, "spendgate_open_holds") == 1, "the hold shows")
    for pid in gateway.worker_pids():
        os.kill(pid, signal.SIGKILL)
    thread.join()

    def expired() -> bool:
        with contextlib.suppress(OSError):  # no worker yet
            return number(gateway, "spendgate_expired_holds_total") == 1
        return False

    eventually(expired, "it expires")
    eventually(lambda: number(gateway, "spendgate_open_holds") == 0, "a dead worker holds nothing")
