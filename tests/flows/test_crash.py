"""Processes die; the money does not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway, start_gateway
from tests.support.invariants import assert_books_are_right, events_of
from tests.support.simulated import Simulated, running_simulator

MODEL = "databricks-dbrx-instruct"


@pytest.fixture
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


def settings(simulator: Simulated) -> dict[str, str]:
    return {
        "DATABRICKS_BASE_URL": simulator.base_url,
        "DATABRICKS_API_KEY": "x",
        "SPENDGATE_LEASE_S": "1",
        "SPENDGATE_DRAIN_S": "8",
    }


def eventually(true: Callable[[], bool], what: str, timeout_s: float = 20) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def call_that_hangs(gateway: RunningGateway, simulator: Simulated) -> threading.Thread:
    """A call that has reached the upstream and gets no answer."""
    simulator.set_fault(MODEL, fault="hang", times=1)

    def call() -> None:
        with contextlib.suppress(OSError):  # the gateway dies under it
            gateway.chat(agent="victim", maxTokens=50)

    thread = threading.Thread(target=call)
    thread.start()
    eventually(lambda: simulator.in_flight() == 1, "the call reaches the upstream")
    return thread


def held_nano(gateway: RunningGateway, agent: str = "victim") -> int:
    return round(gateway.spend(agent)["held"] * 10**9)


def spent_nano(gateway: RunningGateway, agent: str = "victim") -> int:
    return round(gateway.spend(agent)["spent"] * 10**9)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_worker_dies_in_mid_call(simulator: Simulated) -> None:
    with running_gateway(**settings(simulator)) as gateway:
        thread = call_that_hangs(gateway, simulator)
        held = held_nano(gateway)
        assert held > 0
        (worker,) = gateway.worker_pids()
        os.kill(worker, signal.SIGKILL)
        thread.join()
        eventually(lambda: bool(gateway.worker_pids()) and gateway.worker_pids() != [worker], "another worker starts")
        eventually(lambda: answers(gateway), "it serves")
        eventually(lambda: held_nano(gateway) == 0, "the hold expires")
        assert spent_nano(gateway) == held, "charged in full, once"
        expired = [e for e in assert_books_are_right(gateway) if e["type"] == "expire"]
        assert [(e["basis"], e["cost_nano"]) for e in expired] == [("unconfirmed", str(held))]


def answers(gateway: RunningGateway) -> bool:
    try:
        return gateway.request("GET", "/readyz", key=None).status == 200
    except OSError:
        return False


def test_everything_but_the_store_dies_and_starts_again(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator) | {"SPENDGATE_DRAIN_S": "1"}) as first:
        before = first.chat(agent="victim", maxTokens=20).json["cost"]
        thread = call_that_hangs(first, simulator)
        held = held_nano(first)
        workers = first.worker_pids()
        os.kill(first.process.pid, signal.SIGKILL)
        first.process.wait()
        thread.join()
        eventually(lambda: not any(alive(w) for w in workers), "the workers go with their supervisor")
    with running_gateway(tmp_path, **settings(simulator)) as second:
        assert "adopted" in second.banner
        assert second.agent_key == first.agent_key
        eventually(lambda: held_nano(second) == 0, "the hold expires")
        assert spent_nano(second) == round(before * 10**9) + held
        assert second.chat(agent="victim", maxTokens=20).status == 200
        assert_books_are_right(second)


def test_everything_dies_with_the_store(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator)) as first:
        costs = sum(round(first.chat(agent="victim", maxTokens=20).json["cost"] * 10**9) for _ in range(5))
        children = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
        first.kill()
        for pid in children:
            if alive(int(pid)):
                os.kill(int(pid), signal.SIGKILL)
    with running_gateway(tmp_path, **settings(simulator)) as second:
        assert "adopted" not in second.banner
        assert spent_nano(second) == costs == bill_nano(simulator.bill(recent=100), agent="victim")
        assert_books_are_right(second)


def test_a_second_start_keeps_the_spend(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator)) as first:
        cost = first.chat(agent="victim", maxTokens=20).json["cost"]
        assert first.stop() == 0
    with running_gateway(tmp_path, **settings(simulator)) as second:
        assert second.spend("victim")["spent"] == cost
        again = second.request("POST", "/agent/chat", {"prompt": "x"}, key=first.agent_key)
        assert again.status == 200, "the key that was printed still works"


def test_sigterm_lets_a_running_stream_end(simulator: Simulated) -> None:
    simulator.change_model(MODEL, chunk_delay_ms=40, output_tokens=100)
    with running_gateway(**settings(simulator)) as gateway:
        got = []
        thread = threading.Thread(target=lambda: got.append(gateway.chat(agent="victim", stream=True, maxTokens=100)))
        thread.start()
        eventually(lambda: simulator.in_flight() == 1, "the stream runs")
        assert gateway.stop() == 0
        thread.join()
        assert got[0].status == 200 and b'"done":true' in got[0].body and got[0].body.endswith(b"[DONE]\n\n")
        log = gateway.log.read_text()
        assert "have not reached the store" not in log


def test_the_store_stops_for_a_while(simulator: Simulated) -> None:
    simulator.change_model(MODEL, latency_ms=1500)
    with running_gateway(**settings(simulator)) as gateway:
        store = json.loads((Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "valkey" / "server.json").read_text())[
            "pid"
        ]
        got = []
        thread = threading.Thread(target=lambda: got.append(gateway.chat(agent="victim", maxTokens=20)))
        thread.start()
        eventually(lambda: simulator.in_flight() == 1, "the call reaches the upstream")
        os.kill(store, signal.SIGSTOP)
        try:
            calls = simulator.bill()["calls"]
            refused = gateway.chat(agent="other")
            assert (refused.status, refused.json["error"]["code"]) == (503, "store_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            assert simulator.bill()["calls"] == calls, "nothing was sent upstream"
            thread.join()
            assert got[0].status == 200, "what was running is answered"
        finally:
            os.kill(store, signal.SIGCONT)
        eventually(lambda: answers(gateway), "it serves again")
        # The lease was over meanwhile: the hold may have been charged in full first, and is then corrected.
        cost = round(got[0].json["cost"] * 10**9)
        eventually(lambda: (held_nano(gateway), spent_nano(gateway)) == (0, cost), "the settlement arrives")
        eventually(lambda: held_nano(gateway, "other") == 0, "no hold is left of the refused call")
        assert spent_nano(gateway, "other") == 0
        assert_books_are_right(gateway)


def test_one_folder_has_one_owner(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator)), pytest.raises(AssertionError, match="another spendgate"):
        start_gateway(tmp_path, **settings(simulator))


def test_a_taken_port_is_said(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(**settings(simulator)) as gateway:
        port = gateway.url.rpartition(":")[2]
        environment = gateway.environment | {"PORT": port, "SPENDGATE_DATA_DIR": str(tmp_path)}
        second = subprocess.run(
            [sys.executable, "-m", "spendgate", "serve"], env=environment, capture_output=True, text=True, timeout=30
        )
        assert second.returncode == 1
        assert f"can't listen on 127.0.0.1:{port}" in second.stderr and "set PORT" in second.stderr
        assert events_of(gateway) is not None
