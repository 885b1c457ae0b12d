"""What differs between the ledger, the live accounts and a provider's record, and what is written of it."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from ledger.corrections import batch_of_adjustments
from ledger.duckdb_store import DuckDbLedger
from ledger.model import CallRow, Position
from ledger.ports import AccountPoint, Adjustment, CallsAsk, Interval, SpendAsk
from ledger.reconcile import AccountDrift, ProviderCall, Report, compare_accounts, compare_calls
from tests.ledger.events import RECORDED_MS, TOKENS, Stream, cost_of, prices_of

ALL_TIME = Interval(0, 2**43)
COST_NANO = cost_of(TOKENS, prices_of("dbrx"))
#: Tokens as a provider says them, of `TOKENS`.
INPUT, OUTPUT = 108, 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DuckDbLedger]:
    opened = DuckDbLedger(tmp_path / "ledger.duckdb", new_id="ldg_1", memory_mib=128)
    yield opened
    opened.close()


def calls(store: DuckDbLedger, stream: Stream) -> list[CallRow]:
    store.append(stream.batch(store.position()))
    return store.call_list(CallsAsk(ALL_TIME, limit=1000))


def theirs(call: CallRow | str, cost_nano: int | None = None, output: int = OUTPUT, accepted: bool = True):
    attempt_id = call if isinstance(call, str) else call.hold_id
    return ProviderCall(attempt_id, RECORDED_MS, "dbrx-endpoint", accepted, INPUT, output, cost_nano)


def price(model: str, at_ms: int, input_tokens: int, output_tokens: int) -> int | None:
    return None if model == "unpriced" else cost_of({"input": input_tokens, "output": output_tokens}, prices_of("dbrx"))


def compared(here: list[CallRow], there: list[ProviderCall], in_flight: tuple[str, ...] = ()) -> Report:
    report = Report("databricks")
    compare_calls(report, here, there, price, in_flight)
    return report


def settled(count: int = 1, **more: object) -> Stream:
    stream = Stream()
    for _ in range(count):
        stream.settle(stream.hold(), **more)  # type: ignore[arg-type]
    return stream


def charged_usd(store: DuckDbLedger) -> Decimal:
    return sum((row.cost_usd for row in store.spend(SpendAsk(ALL_TIME))), Decimal())


def test_the_same_on_both_sides(store: DuckDbLedger):
    here = calls(store, settled(3))
    report = compared(here, [theirs(c) for c in here])
    assert report.clean and report.unpriced == []
    drift = report.models["dbrx"]
    assert (drift.here, drift.there, drift.both, drift.capture) == (3, 3, 3, 1.0)
    assert drift.tokens_here == drift.tokens_there == 3 * (INPUT + OUTPUT)
    assert drift.cost_here_nano == drift.cost_there_nano == 3 * COST_NANO


def test_capture_is_the_share_of_theirs_that_is_known_here(store: DuckDbLedger):
    here = calls(store, settled(3))
    report = compared(here, [*(theirs(c) for c in here[:2]), theirs("hld_other"), theirs("hld_another")])
    assert report.models["dbrx"].here == 3 and report.models["dbrx"].capture == 1.0
    assert report.models["dbrx-endpoint"].capture == 0.0
    assert report.unknown == ["hld_other", "hld_another"] and not report.clean


def test_what_they_did_not_accept_does_not_count(store: DuckDbLedger):
    report = compared(calls(store, settled()), [theirs("hld_other", accepted=False)])
    assert report.clean and report.models["dbrx"].there == 0


def test_what_is_in_flight_is_not_unknown():
    report = compared([], [theirs("hld_open")], in_flight=("hld_open",))
    assert report.clean and report.models == {}


def test_other_tokens_are_priced_and_adjusted(store: DuckDbLedger):
    (here,) = calls(store, settled())
    report = compared([here], [theirs(here, output=70)])
    (adjustment,) = report.adjustments
    cost_nano = cost_of({"input": INPUT, "output": 70}, prices_of("dbrx"))
    assert (adjustment.cost_nano, adjustment.delta_nano) == (cost_nano, cost_nano - COST_NANO)
    assert report.models["dbrx"].cost_there_nano == cost_nano


def test_a_cost_that_they_name_comes_first(store: DuckDbLedger):
    (here,) = calls(store, settled())
    (adjustment,) = compared([here], [theirs(here, cost_nano=7, output=70)]).adjustments
    assert (adjustment.cost_nano, adjustment.delta_nano) == (7, 7 - COST_NANO)


def test_other_tokens_of_a_model_without_a_price(store: DuckDbLedger):
    (here,) = calls(store, settled())
    report = compared([replace(here, model_served="unpriced")], [theirs(here, output=70)])
    assert report.unpriced == [here.hold_id] and report.adjustments == []


def test_a_call_whose_end_nobody_saw(store: DuckDbLedger):
    """All of the hold was posted."""
    stream = Stream()
    stream.expire(stream.hold(amount_nano=500_000))
    (here,) = calls(store, stream)
    (adjustment,) = compared([here], [theirs(here)]).adjustments
    assert adjustment.delta_nano == cost_of({"input": INPUT, "output": OUTPUT}, prices_of("dbrx")) - 500_000


def test_a_voided_call_that_they_charged(store: DuckDbLedger):
    stream = Stream()
    stream.void(stream.hold())
    (here,) = calls(store, stream)
    (adjustment,) = compared([here], [theirs(here, cost_nano=900)]).adjustments
    assert (adjustment.delta_nano, adjustment.cost_nano) == (900, 900)


def test_a_record_that_comes_twice_counts_once(store: DuckDbLedger):
    (here,) = calls(store, settled())
    report = compared([here], [theirs(here, 7), theirs(here, 7), theirs("hld_x"), theirs("hld_x")])
    assert len(report.adjustments) == 1 and report.unknown == ["hld_x"]
    assert (report.models["dbrx"].there, report.models["dbrx"].capture) == (1, 1.0)


def test_of_two_sources_the_first_adjusts(store: DuckDbLedger):
    (here,) = calls(store, settled())
    report = compared([here], [theirs(here, 7)])
    report.source = "helicone"
    compare_calls(report, [here], [theirs(here, 8)], price)
    assert [(a.source, a.cost_nano) for a in report.adjustments] == [("databricks", 7)]


def test_what_was_adjusted_differs_no_more(store: DuckDbLedger):
    (here,) = calls(store, settled())
    there = [theirs(here, 7)]
    adjustments = compared([here], there).adjustments
    assert store.append(batch_of_adjustments(adjustments, store.position(), RECORDED_MS)) == 1
    assert charged_usd(store) == Decimal("0.000000007")
    assert compared(store.call_list(CallsAsk(ALL_TIME)), there).clean


def test_the_same_adjustment_is_written_once(store: DuckDbLedger):
    (here,) = calls(store, settled())
    adjustments = compared([here], [theirs(here, 7)]).adjustments
    for again in ([*adjustments, *adjustments], adjustments):
        store.append(batch_of_adjustments(again, store.position(), RECORDED_MS))
        assert charged_usd(store) == Decimal("0.000000007")


def test_a_record_that_changes_again_is_followed(store: DuckDbLedger):
    (first,) = calls(store, settled())
    for cost_nano in (7, 9_000, 11):
        here = store.call_list(CallsAsk(ALL_TIME))
        adjustments = compared(here, [theirs(first, cost_nano)]).adjustments
        store.append(batch_of_adjustments(adjustments, store.position(), RECORDED_MS))
        assert charged_usd(store) == Decimal(cost_nano).scaleb(-9)


def test_adjustments_leave_the_ledgers_place_alone(store: DuckDbLedger):
    (here,) = calls(store, settled())
    at = store.position()
    store.append(batch_of_adjustments([Adjustment(here, 7, 7 - COST_NANO, "databricks", "")], at, RECORDED_MS))
    assert store.position() == at != Position()


@pytest.mark.parametrize(
    ("posted", "before", "after", "drifts"),
    [
        (100, 100, 100, False),
        (100, 90, 110, False),  # calls go on
        (100, 110, 90, False),  # a hold that had expired was given back
        (100, 90, 99, True),
        (100, 101, 110, True),
        (0, 5, 5, True),
    ],
)
def test_accounts(posted: int, before: int, after: int, drifts: bool):
    points = [AccountPoint("a", 0, posted - 1), AccountPoint("a", 900_000, 1), AccountPoint("older", 0, 3)]
    found = compare_accounts(points, {"a": before}, {"a": after})
    assert found == ([AccountDrift("a", posted, after)] if drifts else [])
