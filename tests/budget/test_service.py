"""The life of a worker's holds, on the memory store behind a line that loses things."""

import asyncio
import logging

import pytest

from budget.model import Basis, Budget, HoldStatus, NextHold, RefusalCode, Resolution, ResolveMode
from budget.ports import FoundHold
from budget.service import Admission, Refused
from core.errors import Conflict, StoreUnavailable
from tests.budget.builders import fixed
from tests.budget.worker import BOT, ID, TEAM, Worker, until


@pytest.fixture
def worker() -> Worker:
    return Worker()


async def test_a_hold_is_settled(worker: Worker) -> None:
    admission = await worker.hold("h1")
    assert admission.candidate.base_nano == 30
    assert admission.account_ids == (ID,)
    assert set(worker.service.open_holds) == {"h1"}
    worker.service.settle(admission, 20, Basis.EXACT, b"{}")
    assert set(worker.service.open_holds) == set(), "nobody waits for it"
    await worker.service.all_ended()
    assert worker.service.sending == {}
    assert await worker.balance() == (20, 0)


async def test_an_admission_names_only_the_accounts_that_watch_its_candidate(worker: Worker) -> None:
    worker.book.put(Budget("t", TEAM, 100, cadence="total"))
    admission = await worker.try_hold("h1", fixed(500, "11"), fixed(3, "-1"))
    assert isinstance(admission, Admission)
    assert admission.account_ids == ("t:total:ml",)
    assert [(t.id, b.held_nano) for t, b in admission.watching] == [("t:total:ml", 3)]
    await worker.settle(admission, 2)
    assert await worker.balance() == (0, 0)


async def test_a_refusal_is_an_answer(worker: Worker) -> None:
    refused = await worker.try_hold("h1", fixed(121))
    assert isinstance(refused, Refused)
    assert refused.refusal.code is RefusalCode.EXCEEDED
    assert not worker.service.open_holds
    assert not worker.service.waiting


async def test_old_budgets_are_read_again_and_asked_again(worker: Worker) -> None:
    await worker.memory.put("budget", "b", b"{}")
    await worker.hold("h1")
    assert worker.refreshed == 1
    assert await worker.balance() == (0, 30)


async def test_budgets_that_never_stand_still_admit_nothing(worker: Worker) -> None:
    async def refresh_in_vain() -> None:
        worker.refreshed += 1

    worker.service.refresh = refresh_in_vain
    await worker.memory.put("budget", "b", b"{}")
    with pytest.raises(StoreUnavailable):
        await worker.try_hold("h1", fixed(1))
    assert worker.refreshed == 4
    assert await worker.balance() == (0, 0)


@pytest.mark.parametrize("fault", ["request", "reply"])
async def test_a_reserve_that_got_lost_once_gives_one_hold(worker: Worker, fault: str) -> None:
    worker.line.faults = [fault]
    await worker.hold("h1")
    assert await worker.balance() == (0, 30)
    assert not worker.service.waiting


@pytest.mark.parametrize("faults", [["request", "request"], ["reply", "reply"], ["request", "reply"]])
async def test_a_reserve_without_an_answer_leaves_no_hold(worker: Worker, faults: list[str]) -> None:
    worker.line.faults = list(faults)
    with pytest.raises(StoreUnavailable):
        await worker.try_hold("h1", fixed(30))
    assert set(worker.service.open_holds) == set()
    assert await worker.service.flush() == 0
    assert await worker.balance() == (0, 0)
    with pytest.raises(Conflict):
        await worker.try_hold("h1", fixed(30))


async def test_giving_up_on_an_id_leaves_the_call_alone_that_has_it(worker: Worker) -> None:
    admission = await worker.hold("h1")
    with pytest.raises(Conflict, match="another call's"):
        await worker.try_hold("h1", fixed(30))
    worker.line.faults = ["request", "request"]
    with pytest.raises(StoreUnavailable):
        await worker.try_hold("h1", fixed(30))
    assert await worker.service.flush() == 0
    assert await worker.balance() == (0, 30)
    await worker.settle(admission, 20)
    assert await worker.balance() == (20, 0)


async def test_a_reserve_that_arrives_after_a_refusal_holds_nothing(worker: Worker) -> None:
    other = await worker.hold("h0", 100)
    worker.line.faults = ["late"]
    assert isinstance(await worker.try_hold("h1", fixed(30)), Refused)
    await worker.settle(other, 0)
    await worker.service.flush()
    with pytest.raises(Conflict):
        await worker.line.deliver()
    assert await worker.balance() == (0, 0)


async def test_a_reserve_that_arrives_before_its_bar_is_released(worker: Worker) -> None:
    worker.line.faults = ["late", "late"]
    with pytest.raises(StoreUnavailable):
        await worker.try_hold("h1", fixed(30))
    await worker.line.deliver()
    assert await worker.balance() == (0, 30)
    await worker.service.flush()
    assert await worker.balance() == (0, 0)
    assert worker.kinds() == ["void"]


@pytest.mark.parametrize("faults", [["hang"], ["request", "hang"]])
async def test_a_caller_that_goes_away_while_asking_leaves_no_hold(worker: Worker, faults: list[str]) -> None:
    worker.line.faults = list(faults)
    task = asyncio.create_task(worker.try_hold("h1", fixed(30)))
    await until(lambda: "h1" in worker.memory.holds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.service.flush() == 0
    assert await worker.balance() == (0, 0)


@pytest.mark.parametrize("fault", ["request", "reply", "late"])
async def test_a_settlement_waits_for_the_store_and_counts_once(worker: Worker, fault: str) -> None:
    admission = await worker.hold("h1")
    worker.line.faults = [fault]
    await worker.settle(admission, 20)
    assert len(worker.service.waiting) == 1
    assert await worker.service.flush() == 0
    await worker.line.deliver()
    assert await worker.balance() == (20, 0)
    assert worker.kinds() == ["settle"]


async def test_a_void_waits_for_the_store(worker: Worker) -> None:
    admission = await worker.hold("h1")
    worker.line.away = True
    worker.service.void(admission, b"{}")
    await worker.service.all_ended()
    assert await worker.service.flush() == 1
    worker.line.away = False
    assert await worker.service.flush() == 0
    assert await worker.balance() == (0, 0)


@pytest.mark.parametrize("fault", ["hang", "stuck"])
async def test_a_settlement_that_is_cut_off_is_done(worker: Worker, fault: str) -> None:
    admission = await worker.hold("h1")
    worker.line.faults = [fault]
    worker.service.settle(admission, 20, Basis.EXACT, b"{}")
    await until(lambda: not worker.line.faults)
    [(_, sent)] = worker.service.sending.values()
    sent.cancel()  # as the loop does at its end
    await worker.service.all_ended()
    assert await worker.service.flush() == 0
    assert await worker.balance() == (20, 0)


async def test_what_is_on_its_way_when_the_worker_stops_is_brought_or_written_down(worker: Worker) -> None:
    admission = await worker.hold("h2")
    worker.line.faults = ["stuck"]
    worker.service.settle(admission, 20, Basis.EXACT, b"{}")
    await until(lambda: not worker.line.faults)
    assert await worker.service.stop() == 0
    assert await worker.balance() == (20, 0)
    [(_, sent)] = worker.service.sending.values()
    sent.cancel()


async def test_an_end_that_can_never_be_done_is_said(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    admission = await worker.hold("h1")
    await worker.settle(admission, 2**53)
    assert worker.service.waiting == []
    assert "h1 is left to its lease" in caplog.text


async def test_those_that_wait_go_in_order_until_the_store_fails_again(worker: Worker) -> None:
    admissions = [await worker.hold(f"h{i}", 10) for i in range(3)]
    worker.line.away = True
    for admission in admissions:
        await worker.settle(admission, 5)
    worker.line.away = False
    worker.line.faults = ["ok", "request"]
    assert await worker.service.flush() == 2
    assert await worker.balance() == (5, 20)
    assert await worker.service.flush() == 0
    assert await worker.balance() == (15, 0)


async def test_two_flushes_at_once_forget_nothing(worker: Worker) -> None:
    admissions = [await worker.hold(f"h{i}", 10) for i in range(5)]
    worker.line.away = True
    for admission in admissions:
        await worker.settle(admission, 5)
    worker.line.away = False
    worker.line.faults = ["ok", "ok", "request"]  # both do the first; the faster one fails at the second
    await asyncio.gather(worker.service.flush(), worker.service.flush())
    assert await worker.service.flush() == 0
    assert await worker.balance() == (25, 0)


async def test_a_settlement_that_comes_while_others_are_flushed_is_kept(worker: Worker) -> None:
    first, second = await worker.hold("h1", 10), await worker.hold("h2", 10)
    worker.line.faults = ["request"]
    await worker.settle(first, 5)
    flushing = asyncio.create_task(worker.service.flush())
    await asyncio.sleep(0)
    worker.line.faults = ["request"]
    await worker.settle(second, 5)
    await flushing
    assert await worker.service.flush() == 0
    assert await worker.balance() == (10, 0)


async def test_a_resolution_that_can_never_be_done_does_not_block_the_others(
    worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    admission = await worker.hold("h1")
    worker.service.waiting.append(Resolution("h1", ResolveMode.SETTLE, (), 20))  # forgets an account
    worker.service.waiting.append(Resolution("h1", ResolveMode.SETTLE, admission.account_ids, 20))
    assert await worker.service.flush() == 0
    assert await worker.balance() == (20, 0)
    assert "h1 is left to its lease" in caplog.text


async def hand_over(worker: Worker, admission: Admission, cost: int = 5, amount: int = 25) -> bool:
    following = NextHold("h2", amount)
    return await worker.service.hand_over(admission, following, cost_nano=cost, basis=Basis.EXACT, detail=b"{}")


async def test_the_next_attempt_is_held_out_of_the_first(worker: Worker) -> None:
    admission = await worker.hold("h1")
    assert await hand_over(worker, admission)
    assert set(worker.service.open_holds) == {"h2"}
    assert await worker.balance() == (5, 25)


async def test_an_attempt_that_cost_nothing_is_voided_as_it_hands_over(worker: Worker) -> None:
    admission = await worker.hold("h1")
    assert await hand_over(worker, admission, cost=0, amount=30)
    assert await worker.status("h1") is HoldStatus.VOIDED
    assert await worker.balance() == (0, 30)


async def test_a_hold_that_has_ended_hands_nothing_over(worker: Worker) -> None:
    admission = await worker.hold("h1")
    worker.clock.at_ms += 60_000
    assert await worker.service.sweep() == 1
    assert not await hand_over(worker, admission)
    assert set(worker.service.open_holds) == set()
    assert await worker.balance() == (5, 0)


@pytest.mark.parametrize("fault", ["request", "reply", "late"])
async def test_a_hand_over_that_got_lost_ends_the_first_and_holds_nothing(worker: Worker, fault: str) -> None:
    admission = await worker.hold("h1")
    worker.line.faults = [fault]
    with pytest.raises(StoreUnavailable):
        await hand_over(worker, admission)
    assert await worker.service.flush() == 0
    await worker.line.deliver()
    assert await worker.balance() == (5, 0)
    assert await worker.status("h2") is HoldStatus.VOIDED


async def test_a_hand_over_whose_caller_goes_away_holds_nothing(worker: Worker) -> None:
    admission = await worker.hold("h1")
    worker.line.faults = ["hang"]
    task = asyncio.create_task(hand_over(worker, admission))
    await until(lambda: "h2" in worker.memory.holds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await worker.service.flush() == 0
    assert await worker.balance() == (5, 0)


async def test_spend_from_outside_is_posted_once_to_every_account(worker: Worker) -> None:
    worker.book.put(Budget("t", TEAM, 100, cadence="total"))
    for applied in (True, False):
        posted = await worker.service.post("wh1", [BOT, TEAM], 90, Basis.WEBHOOK, b"{}")
        assert (posted.applied, posted.balances) == (applied, ((90, 0), (90, 0)))
    assert [e["to"] for e in worker.memory.log if e["type"] == "state"] == ["1", "1"]


async def test_spend_from_outside_that_comes_again_when_the_accounts_are_others_changes_nothing(worker: Worker) -> None:
    await worker.service.post("wh1", [BOT], 90, Basis.WEBHOOK, b"{}")
    worker.book.put(Budget("b", BOT, 100, cadence="daily"))
    again = await worker.service.post("wh1", [BOT], 90, Basis.WEBHOOK, b"{}")
    assert not again.applied
    assert await worker.balance() == (90, 0)


async def test_a_true_up_corrects_what_is_remembered(worker: Worker) -> None:
    assert await worker.service.true_up("h1", 5, b"{}") is None
    await worker.settle(await worker.hold("h1"), 20)
    corrected = await worker.service.true_up("h1", 25, b"{}")
    assert corrected is not None
    assert (corrected.delta_nano, await worker.balance()) == (5, (25, 0))
    again = await worker.service.true_up("h1", 99, b"{}")
    assert again is not None
    assert not again.applied


async def test_renewed_leases_outlive_the_first_one(worker: Worker) -> None:
    await worker.hold("h1")
    for _ in range(5):
        worker.clock.at_ms += 8_000
        await worker.service.renew()
        assert await worker.service.sweep() == 0
    assert await worker.balance() == (0, 30)


async def test_a_hold_that_ended_elsewhere_is_renewed_no_more(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    admission = await worker.hold("h1")
    await worker.memory.resolve(Resolution("h1", ResolveMode.VOID, admission.account_ids))
    await worker.service.renew()
    assert set(worker.service.open_holds) == set()
    assert "ended while its call was still running" in caplog.text


async def test_any_worker_expires_the_holds_of_a_dead_one_once(worker: Worker) -> None:
    await worker.hold("h1")
    await worker.hold("h2", 20)
    worker.clock.at_ms += 9_000
    assert await worker.service.sweep(limit=1) == 1
    assert await worker.service.sweep() == 1
    assert await worker.service.sweep() == 0
    assert await worker.balance() == (50, 0)
    assert [(e["basis"], e["detail"]) for e in worker.memory.log if e["type"] == "expire"] == [
        ("unconfirmed", '{"x":1}')
    ] * 2
    assert await worker.memory.find("h1") == FoundHold(HoldStatus.EXPIRED, (ID,), 30, 30)


async def test_a_cost_above_the_hold_is_reported(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    await worker.settle(await worker.hold("h1"), 45)
    assert await worker.balance() == (45, 0)
    assert "15 nano-dollars more" in caplog.text


async def test_it_is_reported_also_while_the_store_is_away(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    admission = await worker.hold("h1")
    worker.line.faults = ["reply"]
    await worker.settle(admission, 45)
    await worker.service.flush()
    assert (await worker.balance(), worker.service.overages) == ((45, 0), 1)
    assert [r.levelname for r in caplog.records if "overage: hold h1" in r.getMessage()] == ["ERROR"]


async def test_a_worker_that_runs_renews_flushes_and_sweeps(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """Its first turn finds the store away; the next one does all that is due."""
    caplog.set_level(logging.WARNING)
    await worker.hold("mine", 10)
    await worker.hold("left", 20)
    worker.service.open_holds.pop("left", None)
    worker.service.waiting.append(Resolution("other", ResolveMode.POST, (ID,), 7))
    worker.line.away = True
    running = asyncio.create_task(worker.service.run())
    await asyncio.sleep(0)  # it looks at the clock
    worker.clock.at_ms += 9_000
    await until(lambda: "the store is away" in caplog.text)
    worker.line.away = False
    await until(lambda: worker.kinds() == ["post", "expire"])
    assert await worker.balance() == (27, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
