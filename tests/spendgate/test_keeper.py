"""Who begins the books, who keeps a copy, and who must not."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from budget.connect import connect
from budget.embedded import EmbeddedValkey
from budget.readers import Readers
from budget.redis_store import RedisBudgetStore
from core.clock import SystemClock
from core.errors import ConfigError, StoreLost
from core.ids import RandomIds
from spendgate.keeper import Keeper
from spendgate.settings import Role, Settings
from tests.budget.builders import held, terms
from tests.support.stores import running_valkey

CLOCK = SystemClock()


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedValkey]:
    with running_valkey() as running:
        yield running


@pytest.fixture
async def store(server: EmbeddedValkey) -> AsyncIterator[RedisBudgetStore]:
    """An empty store."""
    opened = RedisBudgetStore(connect(server.url))
    await opened._client.flushall()
    yield opened
    await opened.close()


def keeper(server: EmbeddedValkey, folder: Path, role: Role = Role.ALL) -> Keeper:
    return Keeper.open(Settings(data_dir=folder, role=role), server.url, CLOCK, RandomIds(CLOCK))


async def test_a_control_process_copies_what_happens(server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path):
    keeping = keeper(server, tmp_path)
    await keeping.begin()
    await held(store, "h1", 30, terms())
    assert not await keeping._turn(keeping.archive)  # type: ignore[arg-type]
    assert keeping.archive and [e.fields["type"] for e in keeping.archive.entries()] == ["terms", "hold"]
    assert (await store.look()).archived == 2
    await keeping.close()


async def test_a_mere_gateway_begins_the_books_once(server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path):
    first = keeper(server, tmp_path, Role.GATEWAY)
    await first.begin()
    assert (await store.look()).epoch
    await first.run()  # it follows nothing
    await first.close()
    await store._client.flushall()
    second = keeper(server, tmp_path, Role.GATEWAY)
    with pytest.raises(StoreLost, match="start a control role first"):
        await second.begin()
    assert (await store.look()).epoch is None, "it began no new ones"
    await second.close()


async def test_two_processes_on_one_folder(server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path):
    first, second = keeper(server, tmp_path), keeper(server, tmp_path)
    assert second.archive is None
    with pytest.raises(StoreLost):
        await second.begin()  # it has no copy: it must not begin books
    await first.begin()
    await second.begin()
    await first.close()
    await second.close()


async def test_a_newcomer_copies_the_books_that_there_are(
    server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path
):
    await store.found("ep_1")
    await held(store, "h1", 30, terms())
    keeping = keeper(server, tmp_path)
    await keeping.begin()
    assert (await store.look()).epoch == "ep_1"
    await keeping.close()
    assert keeping.archive and keeping.archive.sequence == 2


async def test_other_books_stop_the_start(server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path):
    await store.found("ep_1")
    await held(store, "h1", 30, terms())
    first = keeper(server, tmp_path)
    await first.begin()
    await first.close()
    await store._client.flushall()
    await store.found("ep_2")
    second = keeper(server, tmp_path)
    with pytest.raises(ConfigError, match="other books"):
        await second.begin()
    assert (await store.look()).doubt is None
    await second.close()


async def test_nothing_goes_that_it_has_not_yet(server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path):
    """From its first moment on, and after a rebuild, before it has copied anything."""
    keeping, readers = keeper(server, tmp_path), Readers(store)
    await keeping.begin()
    await held(store, "h1", 30, terms())
    await readers.place("ledger", (await store.events(count=10))[-1][0])
    assert await readers.trim(2**52) == 0
    await keeping._turn(keeping.archive)  # type: ignore[arg-type]
    await store._client.flushall()
    assert keeping.archive
    await keeping._rebuild("a test", keeping.archive)
    await store._client.hdel(store.key("epoch"), "opens")
    found = await store.look()
    store.join(found.epoch or "", found.sequence)
    await held(store, "h2", 30, terms())
    await readers.place("ledger", (await store.events(count=10))[-1][0])
    trimmed = await readers.trim(2**52)
    assert trimmed == len([e async for e in _archived(keeping)]) - 1, "what it has, but for the last"
    await keeping.close()


async def _archived(keeping: Keeper) -> AsyncIterator[str]:
    assert keeping.archive
    for entry in keeping.archive.entries():
        yield entry.id


async def test_what_it_has_may_go_and_a_newcomer_begins_with_a_summary(
    server: EmbeddedValkey, store: RedisBudgetStore, tmp_path: Path
):
    keeping = keeper(server, tmp_path / "a")
    await keeping.begin()
    await held(store, "h1", 30, terms())
    await held(store, "h2", 30, terms())
    await keeping._turn(keeping.archive)  # type: ignore[arg-type]
    readers = Readers(store)
    assert await readers.trim(2**52) == 2, "all but the last"
    await keeping._turn(keeping.archive)  # type: ignore[arg-type]
    newcomer = keeper(server, tmp_path / "b")
    await newcomer.begin()
    await newcomer._turn(newcomer.archive)  # type: ignore[arg-type]
    assert newcomer.archive and [e.fields["type"] for e in newcomer.archive.entries()] == [
        *("terms", "hold", "summary"),
        "hold",
    ]
    for one in (keeping, newcomer):
        assert await one._why_rebuild(await store.look(), one.archive) is None  # type: ignore[arg-type]
        await one.close()
    assert len(await readers.all()) == 2
