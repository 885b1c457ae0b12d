"""The store is away, late, full, read-only, or its answers get lost: calls are refused in time, those that run are
answered and settled once, and all goes on when it is back."""

import threading
from collections.abc import Callable, Iterator

import pytest

from budget.script import Script
from tests.support.rig import REFUSAL_S, Rig, Timed, cost_nano, running_rig
from tests.support.waiting import eventually

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
    with rig.in_flight(agent, IN_FLIGHT) as running:
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
    assert {e["type"] for e in rig.settled(f"{agent}-late")} <= {"void"}, "a refused one that arrived late was barred"
    sent = [c["usage_context"]["agent"] for c in rig.simulator.bill(recent=1000)["client_request_ids"]]
    assert f"{agent}-late" not in sent, "nor sent upstream"


def test_a_store_without_memory_takes_settlements_and_no_new_holds(rig: Rig) -> None:
    with rig.in_flight("oom", IN_FLIGHT) as running:
        _do(rig, "CONFIG", "SET", "maxmemory", "1")
        try:
            assert_refused(rig, rig.call("oom-late"))
            answers = [timed.answer for timed in running.join()]
            events = rig.settled("oom")
        finally:
            _do(rig, "CONFIG", "SET", "maxmemory", "0")
    assert [e["type"] for e in events] == ["settle"] * IN_FLIGHT, "while there was no memory"
    assert sum(int(e["delta_nano"]) for e in events) == sum(cost_nano(a) for a in answers if a)
    rig.recovers()
    assert rig.settled("oom-late") == []


def test_a_slow_store_slows_calls_and_changes_nothing(rig: Rig) -> None:
    rig.to_store.delay(0.5)
    timed = rig.start("slow", 4).join()
    rig.to_store.heal()
    assert {t.status for t in timed} == {200}
    assert all(0.5 <= t.seconds < REFUSAL_S for t in timed), "one round trip: nobody waits for the settlement"
    events = rig.settled("slow")
    assert [e["type"] for e in events] == ["settle"] * 4
    rig.recovers()


@pytest.mark.parametrize("how", ["reset", "silence"])
def test_a_reserve_whose_reply_is_lost_holds_once(rig: Rig, how: str) -> None:
    agent = f"reserve-{how}"
    before = rig.to_store.lost
    (rig.to_store.lose_replies if how == "reset" else rig.to_store.swallow_replies)(RESERVE)
    with rig.in_flight(agent, 1) as running:
        assert rig.to_store.lost == before + 1, "it was reserved, and its worker did not hear it"
        assert rig.store.command("ZCARD", "sg:{main}:leases") == 1
    rig.to_store.heal()
    assert running.statuses() == {200}
    (settled,) = rig.settled(agent)
    assert settled["type"] == "settle"


def test_a_reserve_that_never_hears_an_answer_sends_nothing_and_holds_nothing(rig: Rig) -> None:
    calls = rig.simulator.bill()["calls"]
    rig.to_store.lose_replies(RESERVE, times=2)
    assert_refused(rig, rig.call("unheard"))
    rig.to_store.heal()
    events = rig.settled("unheard")
    assert [(e["type"], e["before"], e["cost_nano"]) for e in events] == [("void", "held", "0")]
    assert rig.simulator.bill()["calls"] == calls


@pytest.mark.parametrize("how", ["reset", "silence"])
def test_a_settlement_whose_reply_is_lost_is_charged_once(rig: Rig, how: str) -> None:
    agent = f"settle-{how}"
    before = rig.to_store.lost
    (rig.to_store.lose_replies if how == "reset" else rig.to_store.swallow_replies)(RESOLVE)
    answered = rig.call(agent)
    eventually(lambda: rig.to_store.lost == before + 1, "the answer is lost")
    rig.to_store.heal()
    assert answered.answer and answered.status == 200
    (settled,) = rig.settled(agent)
    assert int(settled["cost_nano"]) == cost_nano(answered.answer)
    eventually(lambda: waiting(rig) == 0, "it is not sent for ever")
    rig.recovers()


def waiting(rig: Rig) -> int:
    """Settlements that wait, in the worker that answers."""
    reports = [rig.gateway.request("GET", "/readyz", key=None).json for _ in range(8)]
    return max(int(report["waitingSettlements"]) for report in reports)


def test_a_storm_of_resets_never_takes_a_budget_over_its_cap(rig: Rig) -> None:
    fixed = {"allowDowngrade": False, "allowSmallerMaxTokens": False, "hardCap": 1, "cadence": "total"}
    rig.gateway.put_budget(scopeType="agent", scopeKey="storm", limitUsd="0.002", **fixed)
    stop = threading.Event()
    calls = rig.start("storm", 8, until=stop)
    account, most, began = "sg:{main}:a:agent-storm-total:total:storm", 0, rig.to_store.accepted
    with rig.store.client() as client:
        for storm in range(200):
            if storm % 20 == 0:
                rig.to_store.reset()
            spent, held = client.hmget(account, "spent", "held")
            most = max(most, int(spent or 0) + int(held or 0))
            if 402 in {timed.status for timed in tuple(calls.done)}:
                break
            stop.wait(0.01)
    stop.set()
    assert calls.statuses() <= {200, 402, 429, 503}
    assert rig.to_store.accepted > began, "connections were made anew"
    rig.recovers()
    events = rig.settled("storm")
    assert 0 < most <= 2_000_000
    assert sum(int(e["delta_nano"]) for e in events) <= 2_000_000
