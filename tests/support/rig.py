"""A gateway with two workers between two fault proxies: one before its store, one before its upstream."""

import contextlib
import http.client
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.bill import bill_by_hold
from tests.support.fault_proxy import FaultProxy, fault_proxy
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.invariants import Events, assert_books_are_right, events_of
from tests.support.restartable import RestartableStore, restartable_store
from tests.support.simulated import Simulated, running_simulator
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
#: From the end of a fault to the start of a call that is answered.
RECOVERY_S = 2.0
#: Two tries at the store, each with a connect (1 s) and a command (1 s), and what a busy machine adds.
REFUSAL_S = 8.0
_MONEY = ("settle", "void", "expire", "true_up", "post")


@dataclass
class Timed:
    """A call's answer, None if its connection broke, and how long it took."""

    answer: Answer | None
    seconds: float

    @property
    def status(self) -> int:
        """0: no answer."""
        return self.answer.status if self.answer else 0


@dataclass
class Calls:
    """Calls that run in threads of their own. release: what they wait for, done by `join`."""

    threads: list[threading.Thread] = field(default_factory=list)
    done: list[Timed] = field(default_factory=list)
    release: Callable[[], None] | None = None

    def join(self) -> list[Timed]:
        """All of them, once all have ended."""
        if self.release:
            self.release()
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a call does not end"
        return self.done

    def statuses(self) -> set[int]:
        """After `join`: every status that came."""
        return {timed.status for timed in self.join()}


@dataclass
class Rig:
    """Everything, and what tests do with it."""

    gateway: RunningGateway
    simulator: Simulated
    store: RestartableStore
    to_store: FaultProxy
    to_upstream: FaultProxy

    def call(self, agent: str, **fields: Any) -> Timed:
        """One call, short unless `fields` say otherwise."""
        began_s = time.monotonic()
        answer = None
        with contextlib.suppress(OSError, http.client.HTTPException):  # its worker died under it
            answer = self.gateway.chat(agent=agent, **({"maxTokens": 20} | fields))
        return Timed(answer, time.monotonic() - began_s)

    def start(self, agent: str, count: int, until: threading.Event | None = None, **fields: Any) -> Calls:
        """That many at once; with `until`, each again and again until it is set."""
        calls = Calls()

        def run() -> None:
            while True:
                calls.done.append(self.call(agent, **fields))
                if until is None or until.is_set():
                    return

        calls.threads = [threading.Thread(target=run) for _ in range(count)]
        for thread in calls.threads:
            thread.start()
        return calls

    @contextlib.contextmanager
    def in_flight(self, agent: str, count: int, **fields: Any) -> Iterator[Calls]:
        """Calls that the upstream has answered; the answers arrive with `join`, or at the end."""
        self.to_upstream.hold()
        calls = self.start(agent, count, **fields)
        calls.release = self.to_upstream.heal
        try:
            eventually(lambda: self.to_upstream.holding == count, "the calls reach the upstream")
            yield calls
        finally:
            calls.join()

    def recovers(self, agent: str = "recovery", within_s: float = RECOVERY_S) -> None:
        """A call that begins within this time from now is answered."""
        deadline_s = time.monotonic() + within_s
        while True:
            began_s = time.monotonic()
            if self.call(agent).status == 200:
                return
            assert began_s < deadline_s, "it does not recover"
            time.sleep(0.02)

    def settled(self, agent: str, *, exact: bool = True, least: float = 1.0, timeout_s: float = 15) -> Events:
        """Once no hold is open and the books have what was billed, call by call: the agent's money events.

        exact: False where the books can't know what was billed; then they have no less than `least` of it.
        """
        self.simulator.wait_idle()
        deadline_s = time.monotonic() + timeout_s
        while wrong := self._wrong(agent, exact, least):
            assert time.monotonic() < deadline_s, wrong
            time.sleep(0.05)
        return [e for e in assert_books_are_right(self.gateway) if _is_of(e, agent)]

    def _wrong(self, agent: str, exact: bool, least: float) -> str | None:
        if self.store.command("ZCARD", "sg:{main}:leases"):
            return "holds are open"
        billed = bill_by_hold(self.simulator.bill(recent=100_000), agent=agent)
        posted: dict[str, int] = defaultdict(int)
        basis: dict[str, str] = {}
        for event in events_of(self.gateway):
            if _is_of(event, agent):
                posted[event["hold"]] += int(event["delta_nano"])
                basis[event["hold"]] = event["basis"]
        for hold_id in posted.keys() | billed.keys():
            was, books = billed.get(hold_id, 0), posted[hold_id]
            if hold_id not in basis:
                return f"{hold_id} was billed {was} and is not on the books"
            if books < was * least or (books > was and (exact or basis[hold_id] == "exact")):
                return f"{hold_id} was billed {was}, and the books say {books} ({basis[hold_id]})"
        return None


def cost_nano(answer: Answer) -> int:
    """What an answer says that it cost."""
    return round(answer.json["cost"] * 10**9)


def _is_of(event: dict[str, str], agent: str) -> bool:
    accounts = event.get("accounts", "").split("\n")
    return event["type"] in _MONEY and any(account.endswith(f":{agent}") for account in accounts)


@contextlib.contextmanager
def running_rig(**settings: str) -> Iterator[Rig]:
    """A rig whose gateway has these settings too."""
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(running_simulator())
        store = stack.enter_context(restartable_store())
        to_store = stack.enter_context(fault_proxy("127.0.0.1", store.port))
        upstream_port = int(simulator.base_url.rpartition(":")[2])
        to_upstream = stack.enter_context(fault_proxy("127.0.0.1", upstream_port))
        environment = {
            # A command that is given up after half a lease is repeated before the lease is over.
            "REDIS_URL": f"redis://127.0.0.1:{to_store.port}/0?socket_timeout=1",
            "DATABRICKS_BASE_URL": f"http://127.0.0.1:{to_upstream.port}",
            "DATABRICKS_API_KEY": "x",
            "SPENDGATE_WORKERS": "2",
            "SPENDGATE_LEASE_S": "2",
            "SPENDGATE_DRAIN_S": "5",
        }
        gateway = stack.enter_context(running_gateway(**environment | settings))
        spec = {"name": "agents", "role": "agent", "scopes": [], "mayName": ["agent:*"]}
        gateway.agent_key = gateway.request("POST", "/api/keys", spec, key="admin").json["key"]
        try:
            yield Rig(gateway, simulator, store, to_store, to_upstream)
            log = gateway.log.read_text()
            assert "Traceback" not in log, log
        finally:
            to_store.heal()
            to_upstream.heal()


@dataclass
class Saboteur:
    """The folder that `tests/faults/crash_points` looks into, inside a gateway's workers."""

    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """What a gateway needs to be sabotaged."""
        path = f"{ROOT / 'tests' / 'faults' / 'crash_points'}{os.pathsep}{ROOT}"
        return {"FAULT_FOLDER": str(self.folder), "PYTHONPATH": path}

    def arm(self, point: str, agent: str = "") -> None:
        """The next worker that reaches this point dies there; with an agent, that resolves a hold of its."""
        draft = self.folder / "die.new"
        draft.write_text(agent)
        draft.rename(self.folder / f"die-{point}")

    def died(self, point: str) -> bool:
        """True once one has."""
        return (self.folder / f"died-{point}").exists()

    def fill_disk(self, full: bool) -> None:
        """No journal can be written, or all can be."""
        name = self.folder / "disk-full"
        name.touch() if full else name.unlink()

    def move_clock(self, by_ms: int) -> None:
        """The workers' wall clocks are this much ahead."""
        draft = self.folder / "clock-ms.new"
        draft.write_text(str(by_ms))
        draft.rename(self.folder / "clock-ms")
