"""A store that lost memory is noticed, refused and rebuilt to the same numbers, on every kind of server."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from budget.link import REBUILDING, Link
from budget.model import Basis, Hold, HoldStatus, Resolution, ResolveMode
from budget.ports import OpenHold
from budget.redis_store import RedisBudgetStore
from budget.verify import verify
from budget.witness import Witness
from core.errors import StoreLost, StoreUnavailable
from tests.budget.builders import ask, end, events, fixed, held, spent_and_held, terms, wall_ms
from tests.contracts.memory_loss import (
    KEEP_MS,
    archive_in,
    books,
    copy,
    forget,
    go_back,
    live,
    opened,
    photograph,
    rebuild,
)

ACCOUNT = terms(limit=1000)


def another(store: RedisBudgetStore) -> RedisBudgetStore:
    """A second worker on the same books."""
    return RedisBudgetStore(store._client, namespace=store.key("").split("{")[1].split("}")[0])


async def assert_nothing_is_written(store: RedisBudgetStore) -> None:
    for call in (
        lambda: store.reserve(ask("new", [ACCOUNT], fixed(1))),
        lambda: end(store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20),
        lambda: end(store, ResolveMode.POST, "new", [ACCOUNT], 20, with_terms=True),
        lambda: store.extend(["h1"], 1000),
        lambda: store.restore(OpenHold("h9", 5, (ACCOUNT.id,)), 1000),
        lambda: store.put("budget", "a", b"{}"),
    ):
        with pytest.raises(StoreLost):
            await call()


async def test_events_are_counted(server_store: RedisBudgetStore):
    await held(server_store, "h1", 30, ACCOUNT)
    settled = await end(server_store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)
    assert settled.sequence == (await server_store.look()).sequence == 3
    assert [e["type"] for _, e in await server_store.events()] == ["terms", "hold", "settle"]
    assert [e["seq"] for _, e in await server_store.events()] == ["1", "2", "3"]


async def test_an_empty_store_takes_nothing(server_store: RedisBudgetStore):
    await held(server_store, "h1", 30, ACCOUNT)
    await forget(server_store)
    with pytest.raises(StoreLost, match="it is empty"):
        await server_store.reserve(ask("new", [ACCOUNT], fixed(1)))
    await assert_nothing_is_written(server_store)
    for reading in (lambda: server_store.changes_since(0), lambda: server_store.find("h1")):
        with pytest.raises(StoreLost):
            await reading()
    assert not await server_store._client.exists(server_store.key("events"))


async def test_a_store_that_went_back_is_noticed_by_one_and_refused_to_all(server_store: RedisBudgetStore):
    await held(server_store, "h1", 30, ACCOUNT)
    photo = await photograph(server_store)
    await end(server_store, ResolveMode.SETTLE, "h1", [ACCOUNT], 20)
    await go_back(server_store, photo)
    ignorant = another(server_store)
    assert await ignorant.extend(["h1"], 1_000_000) == []  # it has seen nothing else
    with pytest.raises(StoreLost, match="it went back from event 3 to 2"):
        await server_store.reserve(ask("h2", [ACCOUNT], fixed(1)))
    await assert_nothing_is_written(ignorant)
    assert await spent_and_held(server_store, ACCOUNT) == (0, 30)


async def test_other_books_are_refused_and_left_alone(server_store: RedisBudgetStore):
    await held(server_store, "h1", 30, ACCOUNT)
    await forget(server_store)
    await server_store.found("ep_other")
    await assert_nothing_is_written(server_store)
    assert (await server_store.look()).doubt is None
    await held(another(server_store), "h2", 30, ACCOUNT)


@pytest.mark.parametrize("seed", range(4))
async def test_everything_lost_is_rebuilt_to_the_same_numbers(
    server_store: RedisBudgetStore, tmp_path: Path, seed: int
):
    archive = archive_in(tmp_path)
    await live(server_store, Random(seed), 120)
    await copy(server_store, archive)
    before = await books(server_store)
    await forget(server_store)
    await rebuild(server_store, archive, "ep_2")
    assert await books(server_store) == before
    assert (await verify(server_store)).drift == []
    with pytest.raises(StoreLost, match="has not caught up"):
        await server_store.reserve(ask("new", [ACCOUNT], fixed(1)))
    with pytest.raises(StoreLost, match="opens in"):
        await another(server_store).reserve(ask("new", [ACCOUNT], fixed(1)))
    assert await server_store.events(count=10_000) == [(e.id, e.fields) for e in archive.entries()]
    archive.close()


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_lost_since_a_fork_is_done_again(server_store: RedisBudgetStore, tmp_path: Path, seed: int):
    archive = archive_in(tmp_path)
    await live(server_store, Random(seed), 60)
    photo = await photograph(server_store)
    await live(server_store, Random(seed + 100), 60, "lost")
    await copy(server_store, archive)
    before = await books(server_store)
    await go_back(server_store, photo)
    await rebuild(server_store, archive, "ep_2")
    assert await books(server_store) == before
    assert (await verify(server_store)).drift == []
    archive.close()


async def test_what_happened_after_the_fork_stays(server_store: RedisBudgetStore, tmp_path: Path):
    """A replica that lagged takes over; before anybody notices, others have written to it."""
    archive = archive_in(tmp_path)
    await held(server_store, "both", 30, ACCOUNT)
    photo = await photograph(server_store)
    await end(server_store, ResolveMode.SETTLE, "both", [ACCOUNT], 20)
    await held(server_store, "lost", 50, ACCOUNT)
    await end(server_store, ResolveMode.SETTLE, "lost", [ACCOUNT], 40)
    await copy(server_store, archive)
    await go_back(server_store, photo)
    ignorant = another(server_store)
    await held(ignorant, "after", 100, ACCOUNT)
    await end(ignorant, ResolveMode.SETTLE, "after", [ACCOUNT], 70)
    await end(ignorant, ResolveMode.SETTLE, "both", [ACCOUNT], 20)  # its first answer was lost
    await rebuild(server_store, archive, "ep_2")
    assert await spent_and_held(server_store, ACCOUNT) == (20 + 40 + 70, 0)
    assert (await verify(server_store)).drift == []
    archive.close()


async def test_a_rebuild_that_is_cut_off_anywhere_starts_again(
    server_store: RedisBudgetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = archive_in(tmp_path)
    await live(server_store, Random(7), 40)
    photo = await photograph(server_store)
    await live(server_store, Random(8), 25, "lost")
    await copy(server_store, archive)
    before = await books(server_store)
    calls, left = 0, 0
    plain = Link.call

    async def failing(link: Link, *args):
        nonlocal calls, left
        calls += 1
        if calls == left:
            raise StoreUnavailable("away")
        return await plain(link, *args)

    monkeypatch.setattr(Link, "call", failing)
    for whole in (True, False):
        await (forget(server_store) if whole else go_back(server_store, photo))
        calls, left = 0, 0
        for left in range(1, 400, 3):
            calls = 0
            try:
                await rebuild(server_store, archive, f"ep_{whole}_{left}")
                break
            except StoreUnavailable:
                continue
        assert left > 10, "it was cut off many times"
        left = 0
        after = await books(server_store)
        if not whole:
            after["documents"] = before["documents"]  # of a document, what was written last counts
        assert after == before
        assert (await verify(server_store)).drift == []
    archive.close()


async def test_long_ago_is_brought_back_as_a_sum(server_store: RedisBudgetStore, tmp_path: Path):
    archive = archive_in(tmp_path)
    await live(server_store, Random(3), 120)
    await copy(server_store, archive)
    before = await books(server_store)
    await forget(server_store)
    later_ms = wall_ms() + 3 * KEEP_MS
    await rebuild(server_store, archive, "ep_2", lambda: later_ms - KEEP_MS)
    after = await books(server_store)
    assert {k: v for k, v in after.items() if k.startswith("a:")} == {
        k: v for k, v in before.items() if k.startswith("a:")
    }
    assert after["leases"] == before["leases"]
    assert len(await events(server_store, "post")) <= 3
    archive.close()


async def test_a_worker_testifies_to_what_no_copy_has(server_store: RedisBudgetStore, tmp_path: Path):
    archive = archive_in(tmp_path)
    await held(server_store, "h1", 30, ACCOUNT)
    witness = Witness(server_store, 3_600_000)
    await witness.look()
    await copy(server_store, archive)
    settle = Resolution("h1", ResolveMode.SETTLE, (ACCOUNT.id,), 20, Basis.EXACT, b"{}")
    witness.saw(settle, await server_store.resolve(settle))
    await held(server_store, "h2", 50, ACCOUNT)
    witness.open_holds["h2"] = OpenHold("h2", 50, (ACCOUNT.id,), 0, 1, "worker", b"{}")
    await forget(server_store)
    await witness.look()
    with pytest.raises(StoreLost):
        witness.check()
    await rebuild(server_store, archive, "ep_2")
    assert await spent_and_held(server_store, ACCOUNT) == (0, 30)
    await witness.look()
    witness.check()
    assert await spent_and_held(server_store, ACCOUNT) == (20, 50)
    assert not witness.settled
    await opened(server_store)
    assert isinstance(await server_store.reserve(ask("h3", [ACCOUNT], fixed(5))), Hold)
    archive.close()


async def test_a_worker_that_can_not_testify_now_does_it_later(
    server_store: RedisBudgetStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive = archive_in(tmp_path)
    await held(server_store, "h1", 30, ACCOUNT)
    witness = Witness(server_store, 3_600_000)
    await copy(server_store, archive)
    witness.open_holds["h2"] = OpenHold("h2", 50, (ACCOUNT.id,))
    await forget(server_store)
    await rebuild(server_store, archive, "ep_2")

    async def away(*_: object) -> HoldStatus:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patched:
        patched.setattr(RedisBudgetStore, "restore", away)
        with pytest.raises(StoreUnavailable):
            await witness.look()
    with pytest.raises(StoreLost):
        witness.check()
    await witness.look()
    witness.check()
    assert await spent_and_held(server_store, ACCOUNT) == (0, 80)
    archive.close()


async def test_what_is_archived_need_not_be_remembered(server_store: RedisBudgetStore):
    witness = Witness(server_store, 3_600_000)
    for number in range(3):
        await held(server_store, f"h{number}", 30, ACCOUNT)
        settle = Resolution(f"h{number}", ResolveMode.SETTLE, (ACCOUNT.id,), 20, Basis.EXACT, b"{}")
        witness.saw(settle, await server_store.resolve(settle))
    await server_store.archived(5)
    await witness.look()
    assert [sequence for sequence, _ in witness.settled] == [7]


async def test_only_a_store_in_doubt_can_be_rebuilt(server_store: RedisBudgetStore, tmp_path: Path):
    await held(server_store, "h1", 30, ACCOUNT)
    own = another(server_store)
    own.join(REBUILDING, 0)
    await assert_nothing_is_written(own)


async def test_what_is_counted_while_the_store_is_asked_is_no_loss(server_store: RedisBudgetStore):
    """A find of nothing looks at the store's memory; what others write at the same time must not look like a loss."""
    await held(server_store, "h0", 1, ACCOUNT)

    async def write(number: int) -> None:
        await held(server_store, f"w{number}", 1, ACCOUNT)

    async def look(number: int) -> None:
        assert await server_store.find(f"nothing-{number}") is None

    for _ in range(5):
        await asyncio.gather(*(call(n) for n in range(40) for call in (write, look)))
