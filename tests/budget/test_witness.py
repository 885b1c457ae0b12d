"""What a worker notices of its store's memory, and what it testifies to one that was rebuilt."""

import logging

import pytest

from budget.memory_store import MemoryBudgetStore
from budget.model import Basis, HoldStatus, Resolution, ResolveMode
from budget.ports import Continuity, OpenHold
from budget.witness import Witness
from core.errors import StoreLost, StoreUnavailable
from tests.budget.builders import held, spent_and_held, terms, wall_ms

ACCOUNT = terms(limit=1000)


class Rebuilt(MemoryBudgetStore):
    """A store whose memory is what a test says."""

    says = Continuity("ep_1", 3)
    joined: str | None = "ep_1"
    joins: list[tuple[str, int]]
    fails = ""

    @property
    def epoch(self) -> str | None:
        return self.joined

    async def look(self) -> Continuity:
        return self.says

    def join(self, epoch: str, sequence: int) -> None:
        self.joined = epoch
        self.joins.append((epoch, sequence))

    async def restore(self, hold: OpenHold, lease_ms: int) -> HoldStatus:
        if self.fails == "restore":
            raise StoreUnavailable("away")
        return await super().restore(hold, lease_ms)


@pytest.fixture
def store() -> Rebuilt:
    made = Rebuilt(wall_ms)
    made.joins = []
    return made


def settle(hold_id: str, cost: int = 20) -> Resolution:
    return Resolution(hold_id, ResolveMode.SETTLE, (ACCOUNT.id,), cost, Basis.EXACT, b"{}")


async def refuses(witness: Witness, why: str) -> None:
    await witness.look()
    with pytest.raises(StoreLost, match=why):
        witness.check()


async def test_all_is_well(store: Rebuilt):
    witness = Witness(store, 1000)
    witness.check()
    await witness.look()
    witness.check()
    assert store.joins == [("ep_1", 3)], "what others have counted is known here too"


async def test_a_worker_that_knows_no_epoch_joins_the_present_one(store: Rebuilt):
    store.joined = None
    witness = Witness(store, 1000, lost="before")
    await witness.look()
    witness.check()
    assert store.joins == [("ep_1", 3)]


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (Continuity(None), "it has no books"),
        (Continuity("ep_1", 3, doubt="it went back"), "it went back"),
        (Continuity("ep_2", 3), "its books are not those that this worker began with"),
    ],
)
async def test_what_is_not_to_be_trusted_is_refused_and_said_once(
    store: Rebuilt, says: Continuity, why: str, caplog: pytest.LogCaptureFixture
):
    witness = Witness(store, 1000)
    store.says = says
    for _ in range(3):
        await refuses(witness, why)
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert why in caplog.text and "calls are refused" in caplog.text
    assert store.joins == [], "it stays in its own epoch"
    store.says = Continuity("ep_1", 9)
    await witness.look()
    witness.check()


async def test_what_a_rebuilt_store_lacks_is_told(store: Rebuilt, caplog: pytest.LogCaptureFixture):
    witness = Witness(store, 60_000)
    await held(store, "known", 30, ACCOUNT)
    known = settle("known")
    witness.saw(known, await store.resolve(known))
    witness.settled.append((7, settle("forgotten", 40)))
    witness.open_holds["running"] = OpenHold("running", 50, (ACCOUNT.id,), 0, 1, "w", b"{}")
    store.says = Continuity("ep_2", 5, past=frozenset({"ep_1"}))
    await witness.look()
    witness.check()
    assert await spent_and_held(store, ACCOUNT) == (20 + 40, 50)
    assert store.joins == [("ep_2", 5)]
    assert not witness.settled and set(witness.open_holds) == {"running"}
    assert store.holds["running"].until_ms > wall_ms() + 50_000, "with a lease of its own"
    assert "calls are admitted" in caplog.text


async def test_a_testimony_that_fails_is_given_again(store: Rebuilt):
    witness = Witness(store, 1000)
    witness.open_holds["running"] = OpenHold("running", 50, (ACCOUNT.id,))
    store.says, store.fails = Continuity("ep_2", 5, past=frozenset({"ep_1"})), "restore"
    with pytest.raises(StoreUnavailable):
        await witness.look()
    with pytest.raises(StoreLost, match="catching up"):
        witness.check()
    assert store.joined == "ep_1", "until it has told all, it is not of that epoch"
    store.fails = ""
    await witness.look()
    witness.check()
    assert (store.joined, await spent_and_held(store, ACCOUNT)) == ("ep_2", (0, 50))


async def test_only_what_had_an_effect_and_is_not_archived_is_remembered(store: Rebuilt):
    witness = Witness(store, 1000)
    await held(store, "h1", 30, ACCOUNT)
    await held(store, "h2", 30, ACCOUNT)
    for hold_id in ("h1", "h1", "h2"):
        witness.saw(settle(hold_id), await store.resolve(settle(hold_id)))
    assert [r.hold_id for _, r in witness.settled] == ["h1", "h2"]
    first = witness.settled[0][0]
    store.says = Continuity("ep_1", 9, archived=first - 1)
    await witness.look()
    assert len(witness.settled) == 2
    store.says = Continuity("ep_1", 9, archived=first)
    await witness.look()
    assert [r.hold_id for _, r in witness.settled] == ["h2"]
