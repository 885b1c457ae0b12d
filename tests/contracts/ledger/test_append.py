"""A batch comes in whole and once, whatever happens in between."""

import multiprocessing
import random
import time
from dataclasses import replace
from typing import Any

import pytest

from ledger.errors import LedgerUnavailable
from ledger.model import Position
from ledger.ports import CallsAsk, Interval, LedgerStore, SpendAsk
from tests.contracts.ledger.conftest import Open
from tests.ledger import oracle
from tests.ledger.appender import append_for_ever, stream_of
from tests.ledger.events import HOUR_MS, Stream, everything

ALL_TIME = Interval(0, 2**42)
NEVER = Position()


def posted(store: LedgerStore) -> dict[str, int]:
    """Sum by account."""
    sums: dict[str, int] = {}
    for point in store.postings(None):
        sums[point.account_id] = sums.get(point.account_id, 0) + point.posted_nano
    return sums


def picture(store: LedgerStore) -> tuple[object, ...]:
    """All that is asked of a ledger, of all time."""
    by_model = SpendAsk(ALL_TIME, ("agent", "model", "meter"))
    by_outcome = SpendAsk(ALL_TIME, ("agent", "outcome"))
    return (
        sorted(store.spend(by_model), key=oracle.by_group),
        sorted(store.calls(by_outcome), key=oracle.by_group),
        posted(store),
        store.call_list(CallsAsk(ALL_TIME, limit=1000)),
        [(e.identity, e.fields) for e in store.events(NEVER)],
        store.state_changes(ALL_TIME, None, 100),
    )


def test_an_empty_ledger_knows_nothing(store: LedgerStore) -> None:
    assert store.position() == NEVER
    assert store.spend(SpendAsk(ALL_TIME, ("agent",))) == []
    assert store.calls(SpendAsk(ALL_TIME, ("agent",))) == []
    assert store.call_list(CallsAsk(ALL_TIME)) == []
    assert store.of_request("req_1") == ([], [])
    assert store.postings(None) == []
    assert store.state_changes(ALL_TIME, None, 10) == []
    assert list(store.events(NEVER)) == []
    assert store.facts()["newestMs"] is None


def test_it_says_where_it_is(store: LedgerStore, reopen: Open) -> None:
    stream = everything()
    batch = stream.batch(NEVER)
    assert store.append(batch) == len(stream.events)
    assert store.position() == batch.position
    assert store.position().sequence == len(stream.events)
    assert store.position().event_id == stream.events[-1][0]
    assert store.position().refusal_id == stream.refusals[-1][0]
    own_id = store.id()
    assert reopen().id() == own_id


def test_what_is_appended_is_there_after_opening_again(store: LedgerStore, reopen: Open) -> None:
    store.append(everything().batch(NEVER))
    before = picture(store)
    assert before[0]
    assert picture(reopen()) == before


def test_the_same_batch_twice_is_added_once(store: LedgerStore) -> None:
    batch = everything().batch(NEVER)
    store.append(batch)
    before = picture(store)
    assert store.append(batch) == 0
    assert picture(store) == before


def test_an_empty_batch_moves_the_position_only(store: LedgerStore) -> None:
    store.append(everything().batch(NEVER))
    before = picture(store)
    nothing = Stream("ep_2").batch(store.position())
    assert store.append(nothing) == 0
    assert store.position().epoch == "ep_2"
    assert picture(store) == before


@pytest.mark.parametrize("size", [1, 7])
def test_batches_of_any_size_come_to_the_same(store: LedgerStore, reopen: Open, size: int) -> None:
    stream = everything()
    while store.position().sequence < len(stream.events):
        store.append(stream.batch(store.position(), size))
        if store.position().sequence % 5 == 0:
            store = reopen()
    whole = [stream.batch(NEVER)]
    found = sorted(store.spend(SpendAsk(ALL_TIME, ("agent", "model", "meter"))), key=oracle.by_group)
    assert found == oracle.spend(whole, SpendAsk(ALL_TIME, ("agent", "model", "meter")))
    assert posted(store) == stream.spent
    assert [e.event_id for e in store.events(NEVER)] == [event_id for event_id, _ in stream.events]


def test_overlapping_batches_add_what_is_new(store: LedgerStore) -> None:
    stream = everything()
    store.append(stream.batch(NEVER, 12))
    assert store.append(stream.batch(NEVER)) == len(stream.events) - 12
    assert posted(store) == stream.spent
    assert len(list(store.events(NEVER))) == len(stream.events)


@pytest.mark.parametrize("later_ms", [0, 2_000, 3 * HOUR_MS])
def test_events_that_a_rebuild_did_again_add_nothing(store: LedgerStore, later_ms: int) -> None:
    """Other ids, other numbers, perhaps a later time, but the same holds."""
    stream = everything()
    store.append(stream.batch(NEVER))
    before = picture(store)
    again = stream.rebuilt("ep_2", later_ms=later_ms)
    assert store.append(again.batch(store.position())) == 1  # the terms that every rebuild writes anew
    assert store.position().epoch == "ep_2"
    assert picture(store)[:4] == before[:4]
    again.settle(again.hold("newcomer"))
    store.append(again.batch(store.position()))
    assert posted(store) == again.spent


def test_a_sum_that_a_rebuild_posted_is_no_spend(store: LedgerStore) -> None:
    stream = everything()
    store.append(stream.batch(NEVER))
    before = posted(store)
    again = Stream("ep_2", stream.now_ms)
    again.rebuilt_sum("agents:month-2026-11:bot", 10**9)
    assert store.append(again.batch(store.position())) == 1
    assert posted(store) == before


def test_what_a_rebuild_did_again_and_what_is_new_in_one_batch(store: LedgerStore) -> None:
    stream = everything()
    store.append(stream.batch(NEVER, 15))
    again = stream.rebuilt("ep_2")
    again.settle(again.hold("newcomer"))
    store.append(again.batch(store.position()))
    assert posted(store) == again.spent


def test_a_batch_that_fails_leaves_no_trace(store: LedgerStore, reopen: Open) -> None:
    stream = everything()
    store.append(stream.batch(NEVER, 12))
    before, position = picture(store), store.position()
    rest = stream.batch(position)
    unheard_of: Any = "a lot"
    broken = replace(rest.calls[-1], posted_nano=unheard_of)
    with pytest.raises(Exception, match=r"a lot|posted_nano"):
        store.append(replace(rest, calls=[*rest.calls[:-1], broken]))
    assert store.position() == position
    assert picture(store) == before
    store = reopen()
    assert picture(store) == before
    store.append(rest)
    assert posted(store) == stream.spent


def test_a_writer_that_is_killed_loses_nothing_and_doubles_nothing(reopen: Open, engine: str, location: str) -> None:
    """Killed at random moments of its appends; what follows goes on from the position that it finds."""
    reopen().close()
    dice, context = random.Random(7), multiprocessing.get_context("spawn")
    for _ in range(4):
        done = context.Event()
        writer = context.Process(target=append_for_ever, args=(engine, location, done))
        writer.start()
        assert done.wait(60)
        time.sleep(dice.uniform(0, 0.3))  # a moment to be killed at, nothing that is waited for
        writer.kill()
        writer.join()
    store = reopen()
    position = store.position()
    stream = stream_of(position.sequence)
    assert position.sequence > 0
    assert [e.event_id for e in store.events(NEVER)] == [e for e, _ in stream.events[: position.sequence]]
    store.append(stream.batch(position))
    assert posted(store) == stream.spent
    spent = sum(row.cost_usd for row in store.spend(SpendAsk(ALL_TIME)))
    assert spent == sum(row.cost_usd for row in oracle.spend([stream.batch(NEVER)], SpendAsk(ALL_TIME)))


def test_a_closed_ledger_is_unavailable(store: LedgerStore) -> None:
    store.close()
    with pytest.raises(LedgerUnavailable):
        store.position()
