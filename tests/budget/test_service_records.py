"""What a worker's service writes down: in the events, in its own books, and for the day the store is rebuilt."""

import logging
from pathlib import Path

import pytest

from budget.journal import Journal
from budget.model import Basis, NextHold, ResolveMode
from budget.service import Admission
from tests.budget.worker import BOT, ID, Worker


@pytest.fixture
def worker() -> Worker:
    return Worker()


def details(worker: Worker, kind: str) -> list[str]:
    return [e["detail"] for e in worker.memory.log if e["type"] == kind]


async def hand_over(worker: Worker, admission: Admission, cost: int) -> bool:
    following = NextHold("h2", 20, b'{"attempt":2}')
    return await worker.service.hand_over(
        admission, following, cost_nano=cost, basis=Basis.ESTIMATED, detail=b'{"attempt":1}'
    )


async def test_every_end_keeps_what_the_call_was(worker: Worker) -> None:
    service = worker.service
    service.settle(await worker.hold("h1"), 1, Basis.EXACT, b'{"n":1}')
    await service.all_ended()
    await service.true_up("h1", 2, b'{"n":2}')
    service.void(await worker.hold("h3"), b'{"n":3}')
    await service.all_ended()
    await service.post("h4", [BOT], 4, Basis.WEBHOOK, b'{"n":4}')
    kinds = ("settle", "true_up", "void", "post")
    assert [details(worker, kind) for kind in kinds] == [['{"n":1}'], ['{"n":2}'], ['{"n":3}'], ['{"n":4}']]


async def test_the_hold_of_the_next_attempt_is_this_workers_with_a_lease_of_its_own(worker: Worker) -> None:
    admission = await worker.hold("h1")
    worker.clock.at_ms += 8_000
    assert await hand_over(worker, admission, 5)
    assert (details(worker, "settle"), details(worker, "hold")[-1]) == (['{"attempt":1}'], '{"attempt":2}')
    assert worker.memory.holds["h2"].owner == "w1"
    mine = worker.service.open_holds["h2"]
    assert (mine.amount_nano, mine.account_ids, mine.detail) == (20, (ID,), b'{"attempt":2}')
    worker.clock.at_ms += 8_999
    assert await worker.service.sweep() == 0
    worker.clock.at_ms += 1
    assert await worker.service.sweep() == 1


async def test_an_end_that_waited_keeps_what_the_call_was(worker: Worker) -> None:
    admission = await worker.hold("h1")
    worker.line.faults = ["request"]
    with pytest.raises(Exception, match="away"):
        await hand_over(worker, admission, 5)
    await worker.service.flush()
    assert details(worker, "settle") == ['{"attempt":1}']


async def test_what_was_settled_here_is_remembered_for_a_rebuild(worker: Worker) -> None:
    service = worker.service
    await worker.settle(await worker.hold("h0"), 1)
    await hand_over(worker, await worker.hold("h1"), 5)
    await service.true_up("h1", 6, b"{}")
    await service.post("h4", [BOT], 4, Basis.WEBHOOK, b"{}")
    known = [(r.hold_id, r.mode, r.cost_nano) for _, r in service.witness.settled]
    assert known == [
        ("h0", ResolveMode.SETTLE, 1),
        ("h1", ResolveMode.SETTLE, 5),
        ("h1", ResolveMode.TRUE_UP, 6),
        ("h4", ResolveMode.POST, 4),
    ]
    assert service.sending == {}


async def test_a_hold_that_was_given_up_can_still_be_settled(worker: Worker) -> None:
    first, second = await worker.hold("h0"), await worker.hold("h1")
    for admission in (first, second):
        assert admission.hold.id in worker.service.open_holds
        worker.service.let_go(admission)
        assert admission.hold.id not in worker.service.open_holds
    await worker.settle(first, 7)
    assert await hand_over(worker, second, 5)
    assert await worker.balance() == (12, 20)


async def test_only_what_is_above_its_hold_is_an_overage(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    await worker.settle(await worker.hold("h0"), 30)
    assert (worker.service.overages, caplog.messages) == (0, [])
    with caplog.at_level(logging.ERROR):
        await worker.settle(await worker.hold("h1"), 31)
        await worker.settle(await worker.hold("h2"), 32)
    assert worker.service.overages == 2
    assert caplog.messages[0] == (
        f"overage: hold h1 cost 31 and held 30: 1 nano-dollars more than it held, posted in full to agent:bot ({ID})"
    )


async def test_what_waits_is_in_the_journal_until_the_store_has_taken_all(worker: Worker, tmp_path: Path) -> None:
    worker.service.journal = Journal(tmp_path, "w1")
    first, second = await worker.hold("h1"), await worker.hold("h2")
    worker.line.away = True
    await worker.settle(first, 1)
    await worker.settle(second, 2)
    written = (tmp_path / "w1.journal").read_bytes()
    assert (written.count(b"\n"), await worker.service.flush()) == (2, 2)
    assert (tmp_path / "w1.journal").read_bytes() == written
    worker.line.away = False
    assert await worker.service.flush() == 0
    assert (tmp_path / "w1.journal").read_bytes() == b""
    assert [r.hold_id for _, r in worker.service.witness.settled] == ["h1", "h2"]


async def test_a_sweep_counts_and_names_what_expired(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    for hold_id in ("h1", "h2"):
        await worker.hold(hold_id)
    worker.clock.at_ms += 9_000
    assert await worker.service.sweep() == 2
    assert caplog.messages == [f"hold {h} expired and is charged in full, unconfirmed" for h in ("h1", "h2")]
    assert [r.hold_id for _, r in worker.service.witness.settled] == ["h1", "h2"]
