"""A worker dies at a point of a call. The others go on, another takes its place, and the money is right: what may
have been made is charged in full once the lease is over, what was settled stays as it is, what never left is free."""

from collections.abc import Iterator

import pytest

from tests.support.invariants import Events
from tests.support.rig import Rig, Saboteur, running_rig
from tests.support.waiting import eventually

DBRX = "databricks-dbrx-instruct"
WORKERS = 4


@pytest.fixture(scope="module")
def saboteur(tmp_path_factory: pytest.TempPathFactory) -> Saboteur:
    return Saboteur(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def running(saboteur: Saboteur) -> Iterator[Rig]:
    with running_rig(SPENDGATE_WORKERS=str(WORKERS), SPENDGATE_LEASE_S="1", **saboteur.settings) as rig:
        yield rig
        deaths = len(list(saboteur.folder.glob("died-*")))
        assert rig.gateway.log.read_text().count("a worker died") == deaths, "only those"


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    eventually(lambda: len(running.gateway.worker_pids()) >= 2, "some are left")
    running.recovers()
    yield running
    running.simulator.clear_faults()
    running.to_upstream.heal()


def kinds(events: Events) -> list[str]:
    return [f"{e['type']} {e['basis']}" if e["type"] != "void" else "void" for e in events]


def assert_died(rig: Rig, saboteur: Saboteur, point: str, status: int) -> None:
    # The answer leaves when the settlement does: where the worker dies as that has arrived, the caller has its answer.
    assert status == (200 if point == "after-settle" else 0), "otherwise the caller hears nothing"
    eventually(lambda: saboteur.died(point), "it dies")
    rig.recovers()


@pytest.mark.parametrize(
    ("point", "stream", "expected"),
    [
        ("before-reserve", False, []),
        ("after-reserve", False, ["expire unconfirmed"]),
        ("before-send", False, ["expire unconfirmed"]),
        ("after-send", False, ["expire unconfirmed"]),
        ("before-settle", False, ["expire unconfirmed"]),
        ("after-settle", False, ["settle exact"]),
        ("before-open", True, ["expire unconfirmed"]),
        ("after-open", True, ["expire unconfirmed"]),
        ("after-chunk", True, ["expire unconfirmed"]),
    ],
)
def test_a_worker_dies(rig: Rig, saboteur: Saboteur, point: str, stream: bool, expected: list[str]) -> None:
    # The settlement of the call before may still be on its way, and is not meant.
    saboteur.arm(point, agent=point if point.endswith("-settle") else "")
    timed = rig.call(point, stream=stream)
    assert_died(rig, saboteur, point, timed.status)
    exact = expected != ["expire unconfirmed"]
    events = rig.settled(point, exact=exact)
    assert kinds(events) == expected
    if not exact:
        assert events[0]["cost_nano"] == events[0]["held_nano"]


@pytest.mark.parametrize("point", ["waiting", "before-renew", "after-renew"])
def test_a_worker_dies_while_the_upstream_works(rig: Rig, saboteur: Saboteur, point: str) -> None:
    with rig.in_flight(point, 1) as running:
        saboteur.arm(point)
        eventually(lambda: saboteur.died(point), "it dies")
    assert_died(rig, saboteur, point, running.statuses().pop())
    (expired,) = rig.settled(point, exact=False)
    assert (expired["type"], expired["basis"]) == ("expire", "unconfirmed")
    assert rig.simulator.bill(recent=1)["client_request_ids"][-1]["status"] == 200


@pytest.mark.parametrize(
    ("point", "fault", "expected"),
    [
        ("before-hand-over", "unavailable", ["expire unconfirmed"]),
        ("after-hand-over", "unavailable", ["void", "expire unconfirmed"]),
        ("before-void", "not_found", ["expire unconfirmed"]),
        ("after-void", "not_found", ["void", "expire unconfirmed"]),
    ],
)
def test_a_worker_dies_between_two_attempts(
    rig: Rig, saboteur: Saboteur, point: str, fault: str, expected: list[str]
) -> None:
    rig.simulator.set_fault(DBRX, fault=fault, times=1)
    saboteur.arm(point)
    timed = rig.call(point)
    assert_died(rig, saboteur, point, timed.status)
    assert kinds(rig.settled(point, exact=False)) == expected
