"""A worker dies while it expires another's hold, or while a settlement is on its way to the journal or out of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rig import Rig, Saboteur, running_rig
from tests.support.waiting import eventually

WORKERS = 3


@pytest.fixture(scope="module")
def saboteur(tmp_path_factory: pytest.TempPathFactory) -> Saboteur:
    return Saboteur(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def running(saboteur: Saboteur) -> Iterator[Rig]:
    with running_rig(SPENDGATE_WORKERS=str(WORKERS), SPENDGATE_LEASE_S="1", **saboteur.settings) as rig:
        yield rig
        eventually(lambda: len(rig.gateway.worker_pids()) == WORKERS, "each has been started again")


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    eventually(lambda: len(running.gateway.worker_pids()) >= 2, "some are left")
    running.recovers()
    yield running
    running.to_store.heal()
    running.to_upstream.heal()


@pytest.mark.parametrize("point", ["before-journal", "after-journal", "before-clear"])
def test_a_worker_dies_with_a_settlement_that_waits(rig: Rig, saboteur: Saboteur, point: str) -> None:
    """Not yet on disk it is left to its lease; on disk it is brought by the next worker, and counts once."""
    with rig.in_flight(point, 1) as running:
        rig.to_store.refuse()
        saboteur.arm(point)
        status = running.statuses().pop()
        if point == "before-clear":
            eventually(lambda: bool(journals(rig)), "it waits on disk")
        else:
            eventually(lambda: saboteur.died(point), "it dies")
    assert status == 200, "the answer does not wait for the settlement"
    rig.to_store.heal()
    eventually(lambda: saboteur.died(point), "it dies")
    on_disk = point != "before-journal"
    events = rig.settled(point, exact=on_disk)
    assert events[-1]["type"] == ("settle" if on_disk else "expire")
    eventually(lambda: not journals(rig), "no journal is left behind but those in use, and they are empty")
    rig.recovers()


def journals(rig: Rig) -> list[Path]:
    """Journals with settlements in them."""
    folder = Path(rig.gateway.environment["SPENDGATE_DATA_DIR"]) / "journal"
    return [path for path in folder.glob("*.journal") if path.exists() and path.stat().st_size]


@pytest.mark.parametrize("point", ["before-expire", "after-expire"])
def test_the_one_who_expires_the_hold_of_a_dead_one_dies_too(rig: Rig, saboteur: Saboteur, point: str) -> None:
    agent = f"twice-{point}"
    saboteur.arm("after-reserve")
    saboteur.arm(point)
    assert rig.call(agent).status == 0
    eventually(lambda: saboteur.died(point), "the second dies")
    rig.recovers()
    (expired,) = rig.settled(agent, exact=False)
    assert (expired["type"], expired["cost_nano"]) == ("expire", expired["held_nano"])
