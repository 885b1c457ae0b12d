"""Under running calls the store comes back with less than it had: nothing is served on it until it knows again."""

import shutil
from collections.abc import Callable, Generator, Iterator

import pytest

from tests.support.restartable import restartable_store
from tests.support.rig import Rig, cost_nano, running_rig
from tests.support.waiting import eventually

#: The store is rebuilt, and opens two seconds later.
REBUILT_S = 15.0
Lose = Callable[[], None]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    with running_rig() as running:
        yield running


def flushed(rig: Rig) -> Generator[Lose, None, None]:
    yield lambda: _do(rig, "FLUSHALL")


def another_database(rig: Rig) -> Generator[Lose, None, None]:
    yield lambda: _do(rig, "SWAPDB", "0", "1")


def rolled_back(rig: Rig) -> Generator[Lose, None, None]:
    """The files of some calls ago."""
    data, backup = rig.store.folder / "appendonlydir", rig.store.folder / "backup"
    shutil.copytree(data, backup)

    def lose() -> None:
        rig.store.kill()
        shutil.rmtree(data)
        backup.rename(data)
        rig.store.start()

    yield lose


def failed_over(rig: Rig) -> Generator[Lose, None, None]:
    """To a replica that was cut off some calls ago."""
    with restartable_store() as replica:
        replica.command("REPLICAOF", "127.0.0.1", str(rig.store.port))
        with replica.client() as client:
            eventually(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
            eventually(lambda: client.dbsize() > 0 and client.exists("sg:{main}:leases") == 0, "it has caught up")
        replica.command("REPLICAOF", "NO", "ONE")

        def lose() -> None:
            rig.store.kill()
            rig.store = replica
            rig.to_store.target = ("127.0.0.1", replica.port)
            rig.to_store.reset()

        yield lose


def _do(rig: Rig, *words: str) -> None:
    rig.store.command(*words)


@pytest.mark.parametrize("loss", [flushed, another_database, rolled_back, failed_over])
def test_a_store_that_forgot_serves_nobody_until_it_is_rebuilt(
    rig: Rig, loss: Callable[[Rig], Generator[Lose, None, None]]
) -> None:
    agent = loss.__name__
    answers = [rig.call(agent).answer for _ in range(3)]
    rig.settled(agent)
    losing = loss(rig)
    lose = next(losing)
    try:
        answers += [rig.call(agent).answer for _ in range(4)]
        with rig.in_flight(agent, 3) as running:
            lose()
            late = rig.call(f"{agent}-late")
            assert late.answer and late.status == 503 and int(late.answer.headers["retry-after"]) >= 1
            assert late.answer.json["error"]["code"] in ("store_lost", "store_unavailable")
            answers += [timed.answer for timed in running.join()]
        rig.recovers(within_s=REBUILT_S)
        events = rig.settled(agent)
        assert all(answer and answer.status == 200 for answer in answers)
        assert sum(int(e["delta_nano"]) for e in events) == sum(cost_nano(answer) for answer in answers if answer)
        assert {e["type"] for e in rig.settled(f"{agent}-late")} <= {"void"}
    finally:
        losing.close()
