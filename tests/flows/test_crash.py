"""Processes die; the money does not."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from budget.texts import hold_text
from tests.support.bill import bill_nano
from tests.support.gateway import Answer, RunningGateway, running_gateway, start_gateway
from tests.support.invariants import assert_books_are_right, events_of
from tests.support.simulated import Simulated, running_simulator
from tests.support.waiting import eventually

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


def call_in_flight(gateway: RunningGateway, simulator: Simulated) -> tuple[threading.Thread, list[Answer]]:
    """A call that has reached the upstream and will be answered; its answer, once the thread has ended."""
    got: list[Answer] = []
    thread = threading.Thread(target=lambda: got.append(gateway.chat(agent="victim", maxTokens=20)))
    thread.start()
    eventually(lambda: simulator.in_flight() == 1, "the call reaches the upstream")
    return thread, got


def open_hold_owner(gateway: RunningGateway) -> int:
    """The pid of the worker that made the only open hold, as the hold itself says."""
    socket = Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "valkey" / "valkey.sock"
    with redis.Redis(unix_socket_path=str(socket)) as client:
        (hold,) = client.zrange("sg:{main}:leases", 0, -1)
        return int(hold_text(client.get(f"sg:{{main}}:hold:{hold.decode()}")).owner.split(":")[1])


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


def test_supervisor_and_workers_die_in_mid_call(simulator: Simulated, tmp_path: Path) -> None:
    two = settings(simulator) | {"SPENDGATE_WORKERS": "2"}
    with running_gateway(tmp_path, **two) as first:
        before = round(first.chat(agent="victim", maxTokens=20).json["cost"] * 10**9)
        thread = call_that_hangs(first, simulator)
        held, workers = held_nano(first), first.worker_pids()
        assert len(workers) == 2
        first.kill()
        thread.join()
        eventually(lambda: not any(alive(w) for w in workers), "the workers are gone")
    with running_gateway(tmp_path, **two) as second:
        assert "adopted" in second.banner
        eventually(lambda: held_nano(second) == 0, "the hold expires")
        expired = [e for e in assert_books_are_right(second) if e["type"] == "expire"]
        assert [(e["basis"], e["cost_nano"]) for e in expired] == [("unconfirmed", str(held))]
        assert spent_nano(second) == before + held


def test_the_embedded_store_alone_dies(simulator: Simulated) -> None:
    simulator.change_model(MODEL, latency_ms=500)
    with running_gateway(**settings(simulator) | {"SPENDGATE_LEASE_S": "30"}) as gateway:
        before = gateway.chat(agent="victim", maxTokens=20).json["cost"]
        thread, got = call_in_flight(gateway, simulator)
        dead = gateway.store_pid()
        os.kill(dead, signal.SIGKILL)
        thread.join()
        assert got[0].status == 200, "what was running is answered"
        eventually(lambda: gateway.chat(agent="other", maxTokens=5).status == 200, "another store serves", 8)
        assert gateway.store_pid() != dead
        eventually(lambda: held_nano(gateway) == 0, "the settlement arrives")
        assert spent_nano(gateway) == round((before + got[0].json["cost"]) * 10**9), "once, and nothing was lost"
        assert "store died and is started again" in gateway.log.read_text()
        assert_books_are_right(gateway)


def test_a_settlement_that_waits_outlives_its_worker(simulator: Simulated, tmp_path: Path) -> None:
    simulator.change_model(MODEL, latency_ms=500)
    with running_gateway(tmp_path, **settings(simulator) | {"SPENDGATE_LEASE_S": "60"}) as first:
        thread, got = call_in_flight(first, simulator)
        store = first.store_pid()
        os.kill(store, signal.SIGSTOP)
        try:
            thread.join()
            folder = Path(first.environment["SPENDGATE_DATA_DIR"]) / "journal"
            eventually(lambda: any(f.stat().st_size for f in folder.glob("*.journal")), "it is on disk", 10)
            first.kill()
        finally:
            os.kill(store, signal.SIGCONT)
    with running_gateway(tmp_path, **settings(simulator)) as second:
        eventually(lambda: held_nano(second) == 0, "the journal is brought, long before the lease ends", 5)
        ends = [e for e in assert_books_are_right(second) if e.get("before")]
        assert [(e["type"], e["basis"], e["outcome"]) for e in ends] == [("settle", "exact", "answered")]
        assert spent_nano(second) == round(got[0].json["cost"] * 10**9)


def test_a_frozen_worker_wakes_after_its_lease(simulator: Simulated) -> None:
    simulator.set_fault(MODEL, fault="slow", delay_ms=500, times=1)
    with running_gateway(**settings(simulator) | {"SPENDGATE_WORKERS": "2"}) as gateway:
        thread, got = call_in_flight(gateway, simulator)
        owner = open_hold_owner(gateway)
        os.kill(owner, signal.SIGSTOP)
        try:
            eventually(lambda: any(e["type"] == "expire" for e in events_of(gateway)), "the other worker expires it")
        finally:
            os.kill(owner, signal.SIGCONT)
        thread.join()
        expired, settled = [e for e in assert_books_are_right(gateway) if e.get("before")]
        assert (expired["type"], expired["before"], expired["basis"]) == ("expire", "held", "unconfirmed")
        assert (settled["type"], settled["before"], settled["basis"]) == ("settle", "expired", "exact")
        assert spent_nano(gateway) == round(got[0].json["cost"] * 10**9), "corrected, not charged again"


def test_a_stream_that_the_drain_cuts_off_is_settled_by_what_was_received(simulator: Simulated, tmp_path: Path) -> None:
    simulator.change_model(MODEL, chunk_delay_ms=50, output_tokens=400)
    short = settings(simulator) | {"SPENDGATE_DRAIN_S": "1", "SPENDGATE_LEASE_S": "30"}
    with running_gateway(tmp_path, **short) as first:

        def call() -> None:
            with contextlib.suppress(http.client.IncompleteRead):  # it is cut off
                first.chat(agent="victim", stream=True, maxTokens=400)

        thread = threading.Thread(target=call)
        thread.start()
        eventually(lambda: simulator.in_flight() == 1, "the stream runs")
        assert first.stop() == 0
        thread.join()
        assert "can't be written" not in first.log.read_text(), "the journal is open to the last"
    with running_gateway(tmp_path, **short) as second:
        (ended,) = [e for e in assert_books_are_right(second) if e.get("before")]
        assert (ended["type"], ended["basis"], ended["outcome"]) == ("settle", "estimated", "aborted")
        assert 0 < int(ended["cost_nano"]) < int(ended["held_nano"]) // 2


def test_a_pause_that_the_drain_cuts_off_voids_what_was_refused(simulator: Simulated, tmp_path: Path) -> None:
    simulator.set_fault(MODEL, fault="rate_limit", retry_after_s=5)
    short = settings(simulator) | {"SPENDGATE_DRAIN_S": "1", "SPENDGATE_LEASE_S": "30"}
    with running_gateway(tmp_path, **short) as first:

        def call() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # it is cut off
                first.chat(agent="victim", maxTokens=20)

        thread = threading.Thread(target=call)
        thread.start()
        eventually(lambda: simulator.bill()["calls"] == 1 and simulator.in_flight() == 0, "the call is refused")
        assert first.stop() == 0
        thread.join()
    with running_gateway(tmp_path, **short) as second:
        (ended,) = [e for e in assert_books_are_right(second) if e.get("before")]
        assert (ended["type"], ended["outcome"], ended["cost_nano"]) == ("void", "rate_limited", "0")


def test_two_hundred_calls_while_the_store_stands_still(simulator: Simulated) -> None:
    with running_gateway(**settings(simulator) | {"SPENDGATE_LEASE_S": "30"}) as gateway:
        assert gateway.chat(agent="crowd", maxTokens=5).status == 200
        before, calls = spent_nano(gateway, "crowd"), simulator.bill()["calls"]
        store = gateway.store_pid()
        os.kill(store, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(200) as pool:
                answers = list(pool.map(lambda _: gateway.chat(agent="crowd", maxTokens=5), range(200)))
        finally:
            os.kill(store, signal.SIGCONT)
        assert {a.status for a in answers} == {503} and all("retry-after" in a.headers for a in answers)
        assert simulator.bill()["calls"] == calls, "nothing was sent upstream"
        # The store now carries out what it was asked while it stood still: late holds meet their void.
        eventually(lambda: gateway.request("GET", "/readyz", key=None).json["waitingSettlements"] == 0, "all is voided")
        eventually(lambda: held_nano(gateway, "crowd") == 0, "no hold is left")
        assert spent_nano(gateway, "crowd") == before
        assert_books_are_right(gateway)


def test_everything_dies_with_the_store(simulator: Simulated, tmp_path: Path) -> None:
    with running_gateway(tmp_path, **settings(simulator)) as first:
        costs = sum(round(first.chat(agent="victim", maxTokens=20).json["cost"] * 10**9) for _ in range(5))
        store = first.store_pid()
        first.kill()
        os.kill(store, signal.SIGKILL)
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
        store = gateway.store_pid()
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
