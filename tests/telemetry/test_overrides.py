"""Prices that people set, beside the dated ones."""

import pytest

from telemetry.overrides import dump_override, load_override
from telemetry.prices import Override, Price, PriceBook, UnpricedModel, price_of

LISTED = price_of("m", 1_000, {"input": 750_000, "output": 2_250_000}, request_nano=0, source="a sheet")


def override(name: str, from_ms: int, ends_ms: int | None = None, input_pico: int = 1, model: str = "m") -> Override:
    price = price_of(model, from_ms, {"input": input_pico}, request_nano=3, source="override", override_id=name)
    return Override(price, ends_ms, "a discount", from_ms - 1, 7)


def at(book: PriceBook, at_ms: int, model: str = "m") -> Price:
    return book.price_at(model, at_ms)


def test_it_holds_from_its_beginning_until_its_end() -> None:
    book = PriceBook([LISTED])
    book.put(override("prc_1", 2_000, 3_000))
    assert [at(book, ms).version for ms in (1_999, 2_000, 2_999, 3_000)] == [
        "m@1970-01-01",
        "m@prc_1",
        "m@prc_1",
        "m@1970-01-01",
    ]
    assert book.next_change_ms(1_000) == 2_000 and book.next_change_ms(2_000) == 3_000
    assert book.next_change_ms(3_000) is None


def test_it_goes_before_a_dated_price_that_comes_later() -> None:
    later = price_of("m", 2_500, {"input": 9}, request_nano=0, source="a sheet")
    book = PriceBook([LISTED, later])
    book.put(override("prc_1", 2_000, 3_000))
    assert at(book, 2_600).override_id == "prc_1"
    assert at(book, 3_000) is later
    assert book.history("m") == [LISTED, later]


def test_of_two_the_one_that_began_last_holds() -> None:
    book = PriceBook([LISTED])
    book.put(override("prc_2", 2_000))
    book.put(override("prc_1", 1_500))
    assert [at(book, ms).override_id for ms in (1_400, 1_600, 2_100)] == ["", "prc_1", "prc_2"]
    book.put(override("prc_2", 2_000, 2_050))
    assert at(book, 2_100).override_id == "prc_1"


def test_one_that_ended_before_it_began_never_holds() -> None:
    book = PriceBook([LISTED])
    book.put(override("prc_1", 2_000, 2_000))
    assert at(book, 2_000) is LISTED
    assert [o.id for o in book.overrides("m")] == ["prc_1"]


def test_a_model_without_any_other_price_is_refused_again_after_its_end() -> None:
    book = PriceBook([])
    book.put(override("prc_1", 2_000, 3_000, model="new"))
    assert at(book, 2_000, "new").input_pico == 1
    for at_ms in (1_999, 3_000):
        with pytest.raises(UnpricedModel):
            at(book, at_ms, "new")


def test_every_change_is_counted_and_removing_twice_is_none() -> None:
    book = PriceBook([LISTED])
    book.put(override("prc_1", 2_000))
    book.put(override("prc_1", 2_000, 2_100))
    book.remove("prc_1")
    book.remove("prc_1")
    assert book.changes == 3 and book.overrides() == []
    assert at(book, 2_000) is LISTED


def test_what_is_stored_comes_back() -> None:
    for given in (override("prc_1", 2_000), override("prc_2", 2_000, 3_000)):
        assert load_override(dump_override(given), revision=7) == given
