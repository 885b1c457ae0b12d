"""Cost records one by one, for exports: whole, exact, in order, in pieces."""

from datetime import UTC, datetime

import pytest

from ledger.charges import records_of
from ledger.columns import CHARGE_COLUMNS, Kind
from ledger.model import Position
from ledger.ports import Filter, Interval, LedgerStore
from tests.ledger.events import HOUR_MS, START_MS, everything

NAMES = [c.name for c in CHARGE_COLUMNS]
ALL_TIME = Interval(0, 2**43)


def rows(store: LedgerStore, interval: Interval = ALL_TIME, *filters: Filter, **named: str) -> list[dict[str, object]]:
    pages = store.charges(interval, filters, NAMES, **named)  # type: ignore[arg-type]
    return [dict(zip(NAMES, row, strict=True)) for page in pages for row in page]


@pytest.fixture
def filled(store: LedgerStore) -> LedgerStore:
    store.append(everything().batch(Position()))
    return store


def test_every_record_as_it_was_made(filled: LedgerStore):
    batch = everything().batch(Position())
    expected = {r["x_SourceRecordId"]: r for group in batch.charges for r in records_of(group)}
    found = {str(r["x_SourceRecordId"]): r for r in rows(filled)}
    assert found.keys() == expected.keys()
    for key, record in found.items():
        for column in CHARGE_COLUMNS:
            value, made = record[column.name], expected[key].get(column.name)
            if made is None:
                assert value is None, column.name
            elif column.kind is Kind.TIME:
                assert value == datetime.fromisoformat(made)
            elif column.kind in (Kind.TEXT, Kind.JSON, Kind.WHOLE):
                assert value == made, column.name
            else:
                assert value == type(value)(made), column.name  # type: ignore[call-arg]


def test_they_come_in_order_and_within_the_interval(filled: LedgerStore):
    everything_there = rows(filled)
    starts = [r["ChargePeriodStart"] for r in everything_there]
    assert starts == sorted(starts)  # type: ignore[type-var]
    hour = Interval(START_MS, START_MS + HOUR_MS)
    end = datetime.fromtimestamp(hour.end_ms / 1000, UTC).replace(tzinfo=None)
    early = [r for r in everything_there if r["ChargePeriodStart"] < end]  # type: ignore[operator]
    assert 0 < len(early) < len(everything_there)
    assert rows(filled, hour) == early


def test_by_when_they_were_recorded(filled: LedgerStore):
    recorded = {r["x_RecordedAt"] for r in rows(filled)}
    (at,) = recorded
    at_ms = round(at.replace(tzinfo=UTC).timestamp() * 1000)  # type: ignore[attr-defined]
    assert len(rows(filled, Interval(at_ms, at_ms + 1), by="x_RecordedAt")) == len(rows(filled))
    assert rows(filled, Interval(at_ms + 1, at_ms + 2), by="x_RecordedAt") == []


DIMENSIONS = {"agent": "x_AgentId", "model": "x_ModelServed", "meter": "SkuMeter", "basis": "x_CostBasis"}


@pytest.mark.parametrize(("name", "column"), DIMENSIONS.items())
def test_filters(filled: LedgerStore, name: str, column: str):
    everything_there = rows(filled)
    for value in {r[column] for r in everything_there}:
        expected = [r for r in everything_there if r[column] == value]
        assert rows(filled, ALL_TIME, Filter(name, (value,))) == expected  # type: ignore[arg-type]


def test_many_come_in_pieces(store: LedgerStore, monkeypatch: pytest.MonkeyPatch):
    for module in ("ledger.duckdb_store", "ledger.clickhouse_store"):
        monkeypatch.setattr(f"{module}._PAGE", 5)
    store.append(everything().batch(Position()))
    pages = list(store.charges(ALL_TIME, (), ["x_SourceRecordId"]))
    assert {len(p) for p in pages[:-1]} == {5} and len(pages) > 2
    ids = [row[0] for page in pages for row in page]
    assert len(ids) == len(set(ids)) == len(rows(store))
