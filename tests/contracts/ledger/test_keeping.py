"""Accounts, states, events and what is kept of them; readers beside a writer."""

import threading
from decimal import Decimal

import orjson
import pytest

from ledger.model import Position
from ledger.ports import Interval, LedgerStore, SpendAsk, StateChange
from tests.contracts.ledger.conftest import Open
from tests.contracts.ledger.test_append import picture, posted
from tests.ledger import oracle
from tests.ledger.events import HOUR_MS, START_MS, Stream, everything

ALL_TIME = Interval(0, 2**42)
SLOT_MS = 900_000
BOT = "agents:month-2026-11:bot"
SCOUT = "agents:month-2026-11:scout"


def _fill(store: LedgerStore, stream: Stream, size: int = 9) -> None:
    while (store.position().epoch, store.position().sequence) != (stream.epoch, len(stream.events)):
        store.append(stream.batch(store.position(), size))


def test_postings_come_to_the_accounts(store: LedgerStore) -> None:
    stream = everything()
    _fill(store, stream)
    assert posted(store) == stream.spent
    assert sum(point.posted_nano for point in store.postings([BOT])) == stream.spent[BOT]
    assert store.postings(["nobody"]) == store.postings([]) == []


def test_postings_are_by_quarters_of_an_hour_oldest_first(store: LedgerStore) -> None:
    stream = Stream()
    for _ in range(9):
        stream.settle(stream.hold(), cost_nano=10, tokens=None, lasted_ms=0)
        stream.now_ms += 5 * 60_000
    _fill(store, stream, 2)
    slots = [(point.slot_ms, point.posted_nano) for point in store.postings([BOT])]
    assert slots == [(START_MS, 30), (START_MS + SLOT_MS, 30), (START_MS + 2 * SLOT_MS, 30)]
    second = Interval(START_MS + SLOT_MS, START_MS + 2 * SLOT_MS)
    assert [point.posted_nano for point in store.postings([BOT], second)] == [30]
    assert len(store.postings(None, second)) == 2  # the team's, too


def test_state_changes_newest_first(store: LedgerStore) -> None:
    stream = Stream()
    for was, now in ((0, 1), (1, 2), (2, 3), (3, 0)):
        stream.state(BOT, was, now, why="limits" if now == 0 else "spend")
        stream.state(SCOUT, was, now)
        stream.now_ms += HOUR_MS
    _fill(store, stream, 3)
    found = store.state_changes(ALL_TIME, [BOT], 10)
    assert [(c.was, c.now) for c in found] == [(3, 0), (2, 3), (1, 2), (0, 1)]
    assert found[0] == StateChange(START_MS + 3 * HOUR_MS, BOT, 3, 0, 0, 10**9, "hld_0", "limits")
    assert len(store.state_changes(ALL_TIME, None, 10)) == 8
    assert len(store.state_changes(ALL_TIME, None, 3)) == 3
    middle = Interval(START_MS + HOUR_MS, START_MS + 3 * HOUR_MS)
    assert [c.now for c in store.state_changes(middle, [BOT, "x"], 10)] == [3, 2]
    assert store.state_changes(ALL_TIME, [], 10) == []


def test_a_state_change_that_is_read_again_under_a_new_epoch_is_one(store: LedgerStore) -> None:
    """A store that lost only its newest events still has the older ones."""
    stream = Stream()
    stream.state(BOT, 0, 1)
    stream.terms(BOT)
    stream.document()
    _fill(store, stream)
    after = Stream("ep_2", stream.now_ms, events=list(stream.events))
    after.state(BOT, 1, 2)
    _fill(store, after)
    assert [c.now for c in store.state_changes(ALL_TIME, [BOT], 10)] == [2, 1]
    assert [e.type for e in store.events(Position())] == ["state", "terms", "document", "state"]


def test_events_come_in_the_order_of_epochs_and_sequence(store: LedgerStore) -> None:
    """The second epoch's name sorts before the first's, and its numbers begin anew."""
    first, second = Stream("zz"), Stream("aa", START_MS + HOUR_MS)
    for stream in (first, second):
        for n in range(12):
            stream.settle(stream.hold(f"agent{stream.epoch}{n}"))
        _fill(store, stream, 7)
    events = list(store.events(Position()))
    assert [(e.epoch, e.sequence) for e in events] == [(e, n) for e in ("zz", "aa") for n in range(1, 25)]
    assert [e.event_id for e in events] == [i for i, _ in first.events + second.events]
    after = Position("zz", 20)
    assert list(store.events(after)) == events[20:]
    assert list(store.events(Position("aa", 23))) == events[47:]
    assert list(store.events(store.position())) == []


def test_an_event_holds_all_its_fields(store: LedgerStore) -> None:
    stream = everything()
    _fill(store, stream)
    assert [orjson.loads(e.fields) for e in store.events(Position())] == [fields for _, fields in stream.events]


def test_compaction_changes_no_answer(store: LedgerStore, reopen: Open) -> None:
    stream = everything()
    _fill(store, stream, 4)
    before = picture(store)
    for _ in range(2):
        store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
        assert picture(store) == before
    stream.settle(stream.hold())
    _fill(store, stream, 4)
    assert posted(store) == stream.spent
    assert posted(reopen()) == stream.spent


def test_sums_do_not_pile_up(store: LedgerStore) -> None:
    """After many compactions, each after a few calls more, there is one sum of each slot, as after a single one. Every
    other call is of a day that was merged before.
    """
    for number in range(8):
        stream = Stream("ep_1", START_MS + number % 2 * 26 * HOUR_MS, made=number)
        stream.settle(stream.hold())
        store.append(stream.batch(Position()))
        before, wide = picture(store), store.facts()["rows"]
        store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
        assert picture(store) == before
        rows = store.facts()["rows"]
        if number == 1:
            once = {name: rows[name] for name in ("spend_slots", "call_slots", "account_slots")}
        elif number > 1:
            assert all(wide[name] > count for name, count in once.items())
            assert {name: rows[name] for name in once} == once
    assert sum(posted(store).values()) == 8 * sum(stream.spent.values()) > 0


@pytest.mark.parametrize("groups", [(), ("agent", "model"), ("meter",)])
def test_what_is_forgotten_stays_in_the_sums(store: LedgerStore, groups: tuple[str, ...]) -> None:
    stream = everything()
    _fill(store, stream)
    asks = [SpendAsk(ALL_TIME, groups), SpendAsk(ALL_TIME, groups, "day", "Asia/Kolkata")]
    spend = [sorted(store.spend(ask), key=oracle.by_group) for ask in asks]
    by_outcome = SpendAsk(ALL_TIME, ("agent", "outcome"), "day")
    calls = sorted(store.calls(by_outcome), key=oracle.by_group)
    everything_kept = list(store.events(Position()))
    store.compact(keep_events_from_ms=START_MS + 26 * HOUR_MS, keep_calls_from_ms=START_MS + 26 * HOUR_MS)
    kept = list(store.events(Position()))
    assert 0 < len(kept) < len(stream.events)
    for_ever = ("terms", "document")  # without these nothing could be rebuilt from the rest
    assert all(e.at_ms >= START_MS + 26 * HOUR_MS or e.type in for_ever for e in kept)
    assert [e for e in kept if e.type in for_ever] == [e for e in everything_kept if e.type in for_ever]
    assert [sorted(store.spend(ask), key=oracle.by_group) for ask in asks] == spend
    assert sorted(store.calls(by_outcome), key=oracle.by_group) == calls
    assert posted(store) == stream.spent


def test_facts_are_for_people(store: LedgerStore) -> None:
    stream = everything()
    _fill(store, stream)
    facts = store.facts()
    assert facts["rows"]["events"] == len(stream.events)
    assert facts["newestMs"] == max(int(f["at_ms"]) for _, f in stream.events)
    assert facts["engine"]
    assert facts["version"]
    assert facts["bytes"] > 0


def test_readers_see_whole_batches_while_one_writes(store: LedgerStore) -> None:
    """Each batch posts as much on `a` as on `b`, and the records come to half of what was posted on both."""
    stream = Stream()
    for n in range(120):
        for agent in ("a", "b"):
            stream.settle(stream.hold(agent, None), tokens=None, cost_nano=1_000 + n, lasted_ms=0)
    wrong: list[object] = []
    seen: set[Decimal] = set()
    written = threading.Event()

    def read() -> None:
        while not written.is_set():
            sums = posted(store)
            rows = {row.group[0]: row.cost_usd for row in store.spend(SpendAsk(ALL_TIME, ("agent",)))}
            if len(set(sums.values())) > 1 or len(set(rows.values())) > 1:
                wrong.append((sums, rows))
            seen.update(rows.values())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        while store.position().sequence < len(stream.events):
            for _ in range(5):
                store.append(stream.batch(store.position(), 32))
            store.compact(keep_events_from_ms=None, keep_calls_from_ms=None)
    finally:
        written.set()
        for reader in readers:
            reader.join()
    assert wrong == []
    assert len(seen) > 2
    assert posted(store) == stream.spent
