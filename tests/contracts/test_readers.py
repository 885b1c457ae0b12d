"""The event stream's readers, and what goes behind them: the books can be checked and rebuilt all the same."""

import asyncio
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from budget.archive import Entry
from budget.model import ResolveMode
from budget.readers import Readers
from budget.rebuild import has
from budget.redis_store import RedisBudgetStore
from budget.summary import summary_of_trimmed
from budget.verify import Fold, verify
from tests.budget.builders import end, held, terms, wall_ms
from tests.contracts.memory_loss import archive_in, books, copy, forget, go_back, live, opened, photograph, rebuild

ACCOUNT = terms(limit=100_000)
ALWAYS_MS = 2**52


async def calls(store: RedisBudgetStore, count: int, name: str = "c") -> None:
    for number in range(count):
        await held(store, f"{name}{number}", 10, ACCOUNT)
        await end(store, ResolveMode.SETTLE, f"{name}{number}", [ACCOUNT], 7)


async def ids(store: RedisBudgetStore) -> list[str]:
    return [event_id for event_id, _ in await store.events(count=10_000)]


async def test_a_reader_gets_every_event_once(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await calls(server_store, 2)
    await readers.place("r", "")
    everything = await ids(server_store)
    first = await readers.read("r", 3)
    second = await readers.read("r", 100)
    assert [i for i, _ in first + second] == everything
    assert [fields for _, fields in first] == [fields for _, fields in await server_store.events(count=3)]
    assert await readers.read("r", 100) == []


async def test_what_is_not_done_is_not_safe_and_comes_again(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await readers.place("r", "")
    await calls(server_store, 2)
    everything = await ids(server_store)
    await readers.read("r", 100)
    (reader,) = await readers.all()
    assert reader.safe_id < everything[0] and reader.waiting == len(everything)
    await readers.place("r", everything[1])  # it was started again, and has the first two
    (reader,) = await readers.all()
    assert reader.waiting == len(everything) - 2
    assert [i for i, _ in await readers.read("r", 100)] == everything[2:]
    await readers.done("r", everything[2:])
    (reader,) = await readers.all()
    assert (reader.safe_id, reader.waiting) == (everything[-1], 0)


async def test_a_reader_goes_back(server_store: RedisBudgetStore):
    """A ledger that was restored from a copy has less than it said."""
    readers = Readers(server_store)
    await readers.place("r", "")
    await calls(server_store, 2)
    everything = [i for i, _ in await readers.read("r", 100)]
    await readers.done("r", everything)
    await readers.place("r", everything[0])
    assert [i for i, _ in await readers.read("r", 100)] == everything[1:]


async def test_nothing_goes_without_a_reader_or_before_the_slowest(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await calls(server_store, 3)
    everything = await ids(server_store)
    assert await readers.trim(ALWAYS_MS) == 0
    await readers.place("fast", everything[-1])
    await readers.place("slow", everything[2])
    assert await readers.trim(ALWAYS_MS) == 2, "the event that a reader has last stays"
    assert await ids(server_store) == everything[2:]
    assert await readers.trim(ALWAYS_MS) == 0
    assert await readers.forget("slow") and not await readers.forget("slow")
    await readers.trim(ALWAYS_MS)
    assert await ids(server_store) == everything[-1:]


async def test_nothing_goes_that_is_too_young(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await calls(server_store, 1)
    await readers.place("r", (await ids(server_store))[-1])
    assert await readers.trim(wall_ms() - 60_000) == 0


async def test_the_books_are_checked_without_what_is_gone(server_store: RedisBudgetStore):
    readers, rng, fold = Readers(server_store), Random(5), Fold()
    for turn in range(6):
        await live(server_store, rng, 60, name=f"t{turn}-")
        everything = await ids(server_store)
        await readers.place("r", rng.choice(everything))
        await readers.trim(ALWAYS_MS)
        fresh = await verify(server_store)
        assert not fresh.drift
        assert not (await verify(server_store, fold)).drift
        assert fresh.events == (await server_store.look()).sequence == fold.events
    assert len(await ids(server_store)) < fresh.events / 2


async def test_drift_is_found_behind_what_is_gone(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await calls(server_store, 5)
    await readers.place("r", (await ids(server_store))[-1])
    await readers.trim(ALWAYS_MS)
    await server_store._client.hincrby(server_store.key("a", ACCOUNT.id), "spent", 1)
    (drift,) = (await verify(server_store)).drift
    assert (drift.expected, drift.found) == (35, 36)


async def test_two_who_trim_at_once(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await calls(server_store, 5)
    everything = await ids(server_store)
    await readers.place("r", everything[-1])
    rows = await server_store.events(count=4)
    await readers._forget_events(rows, "")
    passed = await readers._forget_events(rows, "")
    assert passed == rows[-1][0], "the second hears how far the first came"
    assert not (await verify(server_store)).drift
    assert await readers.trim(ALWAYS_MS) == len(everything) - 5


@pytest.mark.parametrize("seed", range(6))
async def test_a_rebuild_after_trimming(server_store: RedisBudgetStore, tmp_path: Path, seed: int):
    """The archive has all; the store lost all, or went back to before or behind a trimming."""
    rng, readers = Random(seed), Readers(server_store)
    archive = archive_in(tmp_path)
    await live(server_store, rng, 80, name="a")
    await copy(server_store, archive)
    photo = await photograph(server_store)
    await readers.place("archive", (await ids(server_store))[-1])
    await readers.trim(ALWAYS_MS)
    if seed % 3 == 1:
        photo = await photograph(server_store)
    await live(server_store, rng, 40, name="b")
    await copy(server_store, archive)
    before = await books(server_store)
    if seed % 3 == 2:
        await forget(server_store)
    else:
        await go_back(server_store, photo)
    await rebuild(server_store, archive, "ep_2")
    await opened(server_store)
    assert await books(server_store) == before
    server_store.join("ep_2", 0)
    assert not (await verify(server_store)).drift
    in_archive: Counter[str] = Counter()
    for entry in archive.entries():
        for account in entry.fields.get("accounts", "").split("\n") if "delta_nano" in entry.fields else ():
            in_archive[account] += int(entry.fields["delta_nano"])
    spent = {b.id: b.spent_nano for b in await server_store.balances(await server_store.all_accounts())}
    assert in_archive == spent, "the archive still has all"


async def test_what_came_of_old_accounts_goes(server_store: RedisBudgetStore):
    readers = Readers(server_store)
    await calls(server_store, 2)
    await readers.place("r", (await ids(server_store))[-1])
    await readers.trim(ALWAYS_MS)
    await readers.forget_old_accounts()
    assert (await server_store.trimmed()).spent_nano[ACCOUNT.id] == 7, "the last event stays"
    await server_store._client.zrem(server_store.key("a"), ACCOUNT.id)
    await readers.forget_old_accounts()
    assert not (await server_store.trimmed()).spent_nano


async def essence(store: RedisBudgetStore) -> dict[str, object]:
    """The books without holds that have ended."""
    found = await books(store)
    return {name: value for name, value in found.items() if not name.startswith("hold:") or value[0] == "held"}


@pytest.mark.parametrize("seed", range(4))
async def test_a_rebuild_from_an_archive_that_began_after_trimming(
    server_store: RedisBudgetStore, tmp_path: Path, seed: int
):
    rng, readers = Random(seed), Readers(server_store)
    await live(server_store, rng, 80, name="a")
    await readers.place("ledger", (await ids(server_store))[-20])
    await readers.trim(ALWAYS_MS)
    archive = archive_in(tmp_path)
    archive.append((await summary_of_trimmed(server_store)).events())
    await live(server_store, rng, 40, name="b")
    await copy(server_store, archive)
    before = await essence(server_store)
    await forget(server_store)
    await rebuild(server_store, archive, "ep_2")
    await opened(server_store)
    assert await essence(server_store) == before
    server_store.join("ep_2", 0)
    assert not (await verify(server_store)).drift


@pytest.mark.parametrize("seed", range(6))
async def test_a_rebuild_from_a_compacted_archive(server_store: RedisBudgetStore, tmp_path: Path, seed: int):
    """Compacted once or twice, behind what is trimmed or not; the store lost all, or went back."""
    rng, readers = Random(seed), Readers(server_store)
    archive = archive_in(tmp_path)
    for turn in range(1 + seed % 2):
        await live(server_store, rng, 60, name=f"a{turn}")
        await copy(server_store, archive)
        if seed % 3:
            await readers.mark(archive.reader, (await ids(server_store))[-1])
            await readers.trim(ALWAYS_MS)
        await asyncio.sleep(0.002)  # so that what comes is of another millisecond
        assert archive.compact(wall_ms(), wall_ms()) > 0
    photo = await photograph(server_store)
    await live(server_store, rng, 40, name="b")
    await copy(server_store, archive)
    before = await essence(server_store)
    if seed % 3 == 2:
        await go_back(server_store, photo)
    else:
        await forget(server_store)
    await rebuild(server_store, archive, "ep_2")
    await opened(server_store)
    assert await essence(server_store) == before
    server_store.join("ep_2", 0)
    assert not (await verify(server_store)).drift


async def test_a_compacted_archive_is_the_stores_copy_still(server_store: RedisBudgetStore, tmp_path: Path):
    archive = archive_in(tmp_path)
    await calls(server_store, 3)
    await copy(server_store, archive)
    size = archive.size_bytes
    assert archive.compact(ALWAYS_MS, wall_ms()) == size - archive.size_bytes > 0
    assert archive.last and await has(server_store, archive.last, "")
    assert archive.sequence == (await server_store.look()).sequence
    await calls(server_store, 1, "d")
    assert not await has(server_store, Entry("1-1", archive.last.fields), "")
