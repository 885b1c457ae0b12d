"""Calls: sums, pages and single ones."""

import pytest

from core.errors import InvalidInput
from ledger.model import Batch, CallRow, Position
from ledger.ports import (
    CALL_DIMENSIONS,
    Bucket,
    CallsAsk,
    Filter,
    Interval,
    LedgerStore,
    PastCall,
    PastCallsAsk,
    SpendAsk,
)
from ledger.scopes import first_keys
from tests.contracts.ledger.conftest import Full
from tests.ledger import oracle
from tests.ledger.events import HOUR_MS, START_MS, Stream, everything

ALL_TIME = Interval(0, 2**42)
CROOKED = Interval(START_MS + 1_234, START_MS + 27 * HOUR_MS + 123_456 + 4_501)


def filled(store: LedgerStore, stream: Stream) -> list[Batch]:
    """All of a stream, in several batches."""
    batches: list[Batch] = []
    while store.position().sequence < len(stream.events):
        batches.append(stream.batch(store.position(), 9))
        store.append(batches[-1])
    return batches


def check(full: Full, ask: SpendAsk) -> None:
    """The store says what the oracle says, and that is something."""
    expected = full.expected.calls(ask)
    assert sorted(full.store.calls(ask), key=oracle.by_group) == expected
    assert expected


@pytest.mark.parametrize("dimension", [*CALL_DIMENSIONS, "agent", "team", "user", "session", "task"])
def test_by_every_dimension_and_type_of_scope(full: Full, dimension: str) -> None:
    check(full, SpendAsk(ALL_TIME, (dimension,)))
    check(full, SpendAsk(CROOKED, (dimension, "agent", "kind")))


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Europe/Berlin"])
@pytest.mark.parametrize("bucket", [None, "hour", "day", "month"])
def test_buckets_are_of_a_time_zone(full: Full, bucket: Bucket | None, zone: str) -> None:
    for interval in (ALL_TIME, CROOKED):
        check(full, SpendAsk(interval, ("agent",), bucket, zone))


@pytest.mark.parametrize(
    "filters",
    [
        (Filter("agent", ("bot",)),),
        (Filter("team", (None,)),),
        (Filter("session", ("s1", None)),),
        (Filter("downgraded", ("true",)),),
        (Filter("refusal", ("budget_exceeded", "no_budget")), Filter("kind", ("refusal",))),
        (Filter("refusal", (None,)), Filter("outcome", ("expired", "answered"))),
        (Filter("state", ("Degraded", None)), Filter("model", ("mixtral", None))),
    ],
    ids=str,
)
def test_filters_hold_for_sums_and_single_calls(full: Full, filters: tuple[Filter, ...]) -> None:
    for interval in (ALL_TIME, CROOKED):
        check(full, SpendAsk(interval, ("agent",), None, "UTC", filters))
        found = full.store.call_list(CallsAsk(interval, filters, 1000))
        assert found == _newest_first(full.batches, interval, filters)
        assert found


def test_a_call_that_expired_and_ended_after_all_is_one(store: LedgerStore) -> None:
    stream = Stream()
    late, freed, trued = stream.hold("late"), stream.hold("freed"), stream.hold("trued")
    stream.settle(trued)
    stream.expire(late)
    stream.expire(freed)
    stream.settle(late)
    stream.void(freed)
    stream.true_up(trued, 900_000)
    store.append(stream.batch(Position()))
    [row] = store.calls(SpendAsk(ALL_TIME))
    assert (row.calls, row.refused, row.failed, row.unconfirmed_nano) == (3, 0, 0, 0)
    assert row.cost_nano == late.posted_nano + 0 + 900_000


def test_what_was_saved_and_avoided(store: LedgerStore) -> None:
    stream = Stream()
    stream.settle(stream.hold(model="sonnet"), model="mixtral", tokens={"input": 1000, "output": 100})
    stream.refuse(needed_nano=7_000)
    store.append(stream.batch(Position()))
    [row] = store.calls(SpendAsk(ALL_TIME))
    assert (row.calls, row.refused, row.downgraded) == (1, 1, 1)
    assert row.saved_nano == 4_500_000 - 600_034
    assert row.avoided_nano == 7_000


def test_pages_of_calls_miss_nothing_and_repeat_nothing(store: LedgerStore) -> None:
    stream = Stream()
    for n in range(23):  # several in the same millisecond
        stream.settle(stream.hold(f"agent{n % 3}"), lasted_ms=0)
        stream.now_ms += n % 2
    batches = filled(store, stream)
    pages: list[CallRow] = []
    before: tuple[int, str] | None = None
    while page := store.call_list(CallsAsk(ALL_TIME, (), 5, before)):
        pages += page
        before = (page[-1].at_ms, page[-1].identity)
    assert pages == _newest_first(batches, ALL_TIME, ())
    assert len(pages) == 23


def test_an_unknown_dimension_is_refused(full: Full) -> None:
    for name in ("meter'", "", "Agent"):
        with pytest.raises(InvalidInput):
            full.store.calls(SpendAsk(ALL_TIME, (name,)))
        with pytest.raises(InvalidInput):
            full.store.call_list(CallsAsk(ALL_TIME, (Filter(name, ("a",)),)))


def test_one_request_is_told_from_hold_to_true_up(store: LedgerStore) -> None:
    stream = everything()
    call = stream.hold()
    stream.expire(call)
    stream.settle(call)
    stream.now_ms += HOUR_MS
    stream.true_up(call, 1)
    filled(store, stream)
    calls, events = store.of_request(call.request_id)
    assert [c.kind for c in calls] == ["expire", "settle", "true_up"]
    assert {c.hold_id for c in calls} == {call.hold_id}
    assert [e.type for e in events] == ["hold", "expire", "settle", "true_up"]
    assert [e.fields for e in events] == [e.fields for e in store.events(Position()) if e.hold_id == call.hold_id]


def test_what_a_webhook_says_under_an_id_of_its_own_belongs_to_the_request(store: LedgerStore) -> None:
    """Helicone tells of our call by a UUID on its attempt."""
    stream = Stream()
    call = stream.hold()
    stream.settle(call)
    stream.true_up(call, 77, source_id="1f2e3d4c-0000-8000-8000-000000000001")
    store.append(stream.batch(Position()))
    calls, _ = store.of_request(call.request_id)
    assert [c.kind for c in calls] == ["settle", "true_up"]


def test_every_attempt_of_a_request_is_told(store: LedgerStore) -> None:
    stream = Stream()
    first = stream.hold()
    stream.void(first)
    second = stream.hold(request_id=first.request_id)
    stream.settle(second)
    store.append(stream.batch(Position()))
    calls, events = store.of_request(first.request_id)
    assert [(c.hold_id, c.kind) for c in calls] == [(first.hold_id, "void"), (second.hold_id, "settle")]
    assert [e.type for e in events] == ["hold", "void", "hold", "settle"]


def test_a_request_of_any_name_is_found(store: LedgerStore) -> None:
    stream = everything()
    refused = stream.refuse("scout")
    open_call = stream.hold()
    filled(store, stream)
    [call], events = store.of_request("wh-2")
    assert (call.kind, call.outcome, call.posted_nano) == ("post", "webhook", 123_456_789)
    assert [e.type for e in events] == ["post"]
    [call], events = store.of_request(refused)
    assert (call.kind, call.refusal, call.account_id) == ("refusal", "budget_exceeded", "agents:month-2026-11:scout")
    assert events == []
    calls, events = store.of_request(open_call.request_id)
    assert (calls, [e.type for e in events]) == ([], ["hold"])
    assert store.of_request("req_unknown") == ([], [])
    assert store.of_request("req_" + "0" * 32) == ([], [])


def _newest_first(batches: list[Batch], interval: Interval, filters: tuple[Filter, ...]) -> list[CallRow]:
    found = [
        call
        for batch in batches
        for call in batch.calls
        if interval.start_ms <= call.at_ms < interval.end_ms and oracle.matches(call, filters)
    ]
    return sorted(found, key=lambda c: (c.at_ms, c.identity), reverse=True)


def _past(batches: list[Batch], scope_type: str | None, scope_key: str | None, interval: Interval) -> list[PastCall]:
    """What the calls in these batches come to as past calls."""
    found = []
    for call in (call for batch in batches for call in batch.calls):
        key = first_keys(tuple(call.scopes)).get(scope_type or "")
        wanted = scope_type is None or (key is not None and scope_key in (None, key))
        if wanted and interval.start_ms <= call.at_ms < interval.end_ms:
            told = {f: getattr(call, f) for f in PastCall._fields if f not in ("start_ms", "key", "needed_nano")}
            start_ms = call.at_ms if call.started_ms is None else call.started_ms
            needed = call.saved_nano if call.kind == "refusal" else 0
            found.append(PastCall(start_ms=start_ms, key=key, needed_nano=needed, **told))
    return sorted(found)


@pytest.mark.parametrize(
    "scope", [(None, None), ("agent", "scout"), ("team", None), ("session", None), ("user", "ann")]
)
def test_past_calls_come_in_their_order_and_in_pages(store: LedgerStore, scope: tuple[str | None, str | None]) -> None:
    stream = everything()
    for n in range(9):  # several in the same millisecond
        stream.settle(stream.hold("scout", session=f"s{n % 2}", user="ann"), lasted_ms=0)
    batches = filled(store, stream)
    for interval in (ALL_TIME, CROOKED):
        pages: list[PastCall] = []
        after: tuple[int, str] | None = None
        while page := store.past_calls(PastCallsAsk(interval, *scope, limit=4, after=after)):
            pages += page
            after = (page[-1].start_ms, page[-1].identity)
        assert pages == _past(batches, *scope, interval)
        assert pages or interval is CROOKED
    with pytest.raises(InvalidInput):
        store.past_calls(PastCallsAsk(ALL_TIME, "it's"))
