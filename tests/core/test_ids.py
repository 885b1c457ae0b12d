"""Ids: sortable, unique, and told from foreign ones when they come back as UUIDs."""

import uuid
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.clock import SystemClock, iso_utc
from core.ids import RandomIds, derived_id, id_to_uuid, uuid_to_id

times_ms = st.integers(0, 2**48 - 1)
prefixes = st.sampled_from(["hld", "req", "key_x"])


@dataclass
class StoppedClock:
    at_ms: int

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return 0.0


def at(at_ms: int, prefix: str = "hld") -> str:
    return RandomIds(StoppedClock(at_ms)).new(prefix)


@given(times_ms, prefixes)
def test_an_id_survives_the_way_through_a_uuid(at_ms: int, prefix: str) -> None:
    own = at(at_ms, prefix)
    text = id_to_uuid(own)
    assert uuid_to_id(prefix, text) == own
    assert uuid_to_id(prefix, text.upper()) == own
    assert (uuid.UUID(text).version, uuid.UUID(text).variant) == (8, uuid.RFC_4122)


@given(times_ms, times_ms)
def test_ids_sort_by_time(first_ms: int, second_ms: int) -> None:
    if first_ms != second_ms:
        assert (at(first_ms) < at(second_ms)) == (first_ms < second_ms)


def test_ids_of_one_instant_differ() -> None:
    ids = RandomIds(StoppedClock(1))
    assert len({ids.new("hld") for _ in range(10_000)}) == 10_000


@given(st.uuids(version=4) | st.uuids(version=1) | st.uuids(version=3) | st.uuids(version=5))
def test_a_foreign_uuid_is_not_ours(foreign: uuid.UUID) -> None:
    assert uuid_to_id("hld", str(foreign)) is None


@given(st.integers(0, 2**62 - 1), times_ms)
def test_a_foreign_uuid_of_version_8_is_not_ours(random62: int, at_ms: int) -> None:
    other_mark = 0x123
    foreign = uuid.UUID(int=(at_ms << 80) | (8 << 76) | (other_mark << 64) | (2 << 62) | random62)
    assert uuid_to_id("hld", str(foreign)) is None


@pytest.mark.parametrize("text", ["", "x", "0" * 31, "hld_" + "0" * 32, "é" * 32])
def test_what_is_no_uuid_is_not_ours(text: str) -> None:
    assert uuid_to_id("hld", text) is None


@given(st.lists(st.text(st.characters(exclude_characters="\x00", codec="utf-8")), min_size=1, max_size=3))
def test_derived_ids_depend_on_all_parts_and_nothing_else(parts: list[str]) -> None:
    assert derived_id("hld", *parts) == derived_id("hld", *parts)
    assert derived_id("hld", *parts, "x") != derived_id("hld", *parts)
    assert derived_id("hld", *parts[:-1], parts[-1] + "x") != derived_id("hld", *parts)


def test_parts_do_not_run_together() -> None:
    assert derived_id("hld", "ab", "c") != derived_id("hld", "a", "bc")


def test_clocks() -> None:
    clock = SystemClock()
    assert clock.now_ms() > 1_700_000_000_000
    assert clock.monotonic_s() <= clock.monotonic_s()
    assert iso_utc(0) == "1970-01-01T00:00:00.000Z"
    assert iso_utc(1_795_395_600_007) == "2026-11-23T01:00:00.007Z"


@given(st.integers(0, 4_000_000_000_000))
def test_printed_times_sort_like_times(at_ms: int) -> None:
    assert iso_utc(at_ms) < iso_utc(at_ms + 1)
