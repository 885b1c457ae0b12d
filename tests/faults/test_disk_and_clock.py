"""A disk that is full and clocks that jump. Both are made in the workers, by `crash_points`."""

import re
from collections.abc import Iterator

import pytest

from tests.support.rig import REFUSAL_S, Rig, Saboteur, cost_nano, running_rig

HOUR_MS = 3_600_000
YEAR_MS = 365 * 24 * HOUR_MS
SKEW_S = 5


@pytest.fixture(scope="module")
def saboteur(tmp_path_factory: pytest.TempPathFactory) -> Saboteur:
    return Saboteur(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def running(saboteur: Saboteur) -> Iterator[Rig]:
    with running_rig(**saboteur.settings) as rig:
        yield rig


@pytest.fixture
def rig(running: Rig, saboteur: Saboteur) -> Iterator[Rig]:
    yield running
    saboteur.move_clock(0)
    running.to_store.heal()
    running.to_upstream.heal()


def test_settlements_that_no_disk_takes_wait_in_memory(rig: Rig, saboteur: Saboteur) -> None:
    with rig.in_flight("disk", 6) as running:
        rig.to_store.refuse()
        saboteur.fill_disk(True)
        answers = [timed.answer for timed in running.join()]
    refused = rig.call("disk-late")
    assert refused.status == 503 and refused.seconds < REFUSAL_S
    saboteur.fill_disk(False)
    rig.to_store.heal()
    assert all(answer and answer.status == 200 for answer in answers)
    events = rig.settled("disk")
    assert sum(int(e["delta_nano"]) for e in events) == sum(cost_nano(answer) for answer in answers if answer)
    log = rig.gateway.log.read_text()
    said = [line for line in log.splitlines() if "the journal can't be written" in line and "No space left" in line]
    assert len(said) >= 6 and all('"level": "error"' in line for line in said)
    rig.recovers()
    rig.settled("disk-late")


@pytest.mark.parametrize("by_ms", [HOUR_MS, -HOUR_MS, YEAR_MS, -YEAR_MS], ids=["+1h", "-1h", "+1y", "-1y"])
def test_a_clock_that_jumps_makes_no_call_and_ends_those_that_run(rig: Rig, saboteur: Saboteur, by_ms: int) -> None:
    agent = f"clock{by_ms}"
    accounts = all_accounts(rig)
    with rig.in_flight(agent, 3) as running:
        saboteur.move_clock(by_ms)
        calls = rig.simulator.bill()["calls"]
        for timed in rig.start(f"late{by_ms}", 3).join():
            assert timed.answer and (timed.status, timed.answer.json["error"]["code"]) == (503, "store_unavailable")
            off = re.search(r"clock is (\S+) s off", timed.answer.json["error"]["message"])
            assert off and float(off[1]) == pytest.approx(-by_ms / 1000, abs=2), "and it is said why"
            assert int(timed.answer.headers["retry-after"]) >= 1
        assert rig.simulator.bill()["calls"] == calls, "nothing was sent"
        answers = [timed.answer for timed in running.join()]
    assert all(answer and answer.status == 200 for answer in answers)
    events = rig.settled(agent)
    assert [e["type"] for e in events] == ["settle"] * 3, "leases are the store's time: none was over"
    assert sum(int(e["delta_nano"]) for e in events) == sum(cost_nano(answer) for answer in answers if answer)
    assert len(all_accounts(rig) - accounts) == 1, "no other period was opened"
    saboteur.move_clock(0)
    rig.recovers()
    assert rig.settled(f"late{by_ms}") == []


def all_accounts(rig: Rig) -> set[str]:
    """Ids of all accounts there are."""
    with rig.store.client() as client:
        return set(client.zrange("sg:{main}:a", 0, -1))


def test_a_clock_that_is_a_little_off_is_served(rig: Rig, saboteur: Saboteur) -> None:
    saboteur.move_clock((SKEW_S - 2) * 1000)
    assert rig.call("a-little-off").status == 200
    saboteur.move_clock((SKEW_S + 1) * 1000)
    assert rig.call("a-little-more").status == 503
    saboteur.move_clock(0)
    (settled,) = rig.settled("a-little-off")
    assert settled["type"] == "settle"
    assert rig.settled("a-little-more") == []
