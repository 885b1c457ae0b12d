"""The store is away, late, full, read-only, or its answers get lost: calls are refused in time, those that run are
answered and settled once, and all goes on when it is back."""

import threading
from collections.abc import Callable, Iterator

import pytest

from budget.script import Script
from tests.support.rig import REFUSAL_S, Rig, Timed, cost_nano, eventually, running_rig

RESERVE = Script("budget", "reserve").sha.encode()
RESOLVE = Script("budget", "resolve").sha.encode()
IN_FLIGHT = 4


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with running_rig() as rig:
        yield rig


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    for calls in range(2):
        assert running.call(f"warm-{calls}").status == 200, "both scripts are loaded"
    yield running
    running.to_store.heal()


def assert_refused(rig: Rig, timed: Timed) -> None:
    assert timed.answer is not None
    assert (timed.status, timed.answer.json["error"]["code"]) == (503, "store_unavailable")
    assert int(timed.answer.headers["retry-after"]) >= 1
    assert timed.seconds < REFUSAL_S


def frozen(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    return rig.store.freeze, rig.store.thaw


def killed(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    return rig.store.kill, rig.store.start


def blackhole(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    return rig.to_store.blackhole, rig.to_store.heal


def refused(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    return rig.to_store.refuse, rig.to_store.heal


def reset(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    return (lambda: rig.to_store.reset(new=True)), rig.to_store.heal


def read_only(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    """A replica of nobody: it keeps what it has and takes no writes."""
    return (
        lambda: _do(rig, "REPLICAOF", "127.0.0.1", "1"),
        lambda: _do(rig, "REPLICAOF", "NO", "ONE"),
    )


def snapshot_fails(rig: Rig) -> tuple[Callable[[], None], Callable[[], None]]:
    """A disk that takes no snapshot: MISCONF on every write."""
    blocker = rig.store.folder / "dump.rdb"

    def begin() -> None:
        (blocker / "in-the-way").mkdir(parents=True)
        _do(rig, "CONFIG", "SET", "save", "3600 1000000")
        _do(rig, "BGSAVE")
        eventually(lambda: "rdb_last_bgsave_status:err" in _info(rig), "the snapshot fails")

    def end() -> None:
        (blocker / "in-the-way").rmdir()
        blocker.rmdir()
        _do(rig, "CONFIG", "SET", "save", "")

    return begin, end


def _do(rig: Rig, *words: str) -> None:
    rig.store.command(*words)


def _info(rig: Rig) -> str:
    with rig.store.client() as client:
        return "\n".join(f"{k}:{v}" for k, v in client.info("persistence").items())


@pytest.mark.parametrize("fault", [frozen, killed, blackhole, refused, reset, read_only, snapshot_fails])
def test_a_store_that_is_away_refuses_calls_and_forgets_none(
    rig: Rig, fault: Callable[[Rig], tuple[Callable[[], None], Callable[[], None]]]
) -> None:
    agent = fault.__name__
    begin, end = fault(rig)
    with rig.in_flight(agent, IN_FLIGHT, latency_ms=700) as running:
        begin()
        try:
            for timed in rig.start(f"{agent}-late", 3).join():
                assert_refused(rig, timed)
            answers = [timed.answer for timed in running.join()]
        finally:
            end()
    rig.recovers()
    assert all(answer and answer.status == 200 for answer in answers), "what was running is answered"
    events = rig.settled(agent)
    spent = sum(int(e["delta_nano"]) for e in events)
    assert spent == sum(cost_nano(answer) for answer in answers if answer), "and settled once, for what it cost"
    assert len({e["hold"] for e in events if e["type"] == "settle"}) == IN_FLIGHT
    assert rig.settled(f"{agent}-late") == [], "nothing was made of the refused ones"
    sent = [c["usage_context"]["agent"] for c in rig.simulator.bill(recent=1000)["client_request_ids"]]
    assert f"{agent}-late" not in sent, "nor sent upstream"
