"""The versioned snapshot of budgets and keys, on every store."""

import asyncio

import pytest

from budget.ports import Change
from core.errors import Conflict
from tests.budget.builders import Store, events


async def test_an_empty_store_is_at_version_0(store: Store) -> None:
    assert await store.changes_since(0) == (0, [])


async def test_changes_come_in_order_and_only_those_that_are_new(store: Store) -> None:
    assert await store.put("budget", "a", b"1") == 1
    assert await store.put("key", "b", b"2") == 2
    first, second = Change("budget", "a", b"1", 1), Change("key", "b", b"2", 2)
    assert await store.changes_since(0) == (2, [first, second])
    assert await store.changes_since(1) == (2, [second])
    assert await store.changes_since(2) == (2, [])


async def test_a_document_comes_once_in_its_present_form(store: Store) -> None:
    await store.put("budget", "a", b"old")
    await store.put("budget", "b", b"b")
    await store.put("budget", "a", b"new")
    assert await store.changes_since(0) == (
        3,
        [Change("budget", "b", b"b", 2), Change("budget", "a", b"new", 3)],
    )


async def test_a_deleted_document_is_a_change_without_text(store: Store) -> None:
    await store.put("budget", "a", b"1")
    assert await store.put("budget", "a", None) == 2
    assert await store.changes_since(1) == (2, [Change("budget", "a", None, 2)])


async def test_one_who_knows_more_than_the_store_reads_everything(store: Store) -> None:
    """The store was replaced by an older one: what it has is all there is."""
    await store.put("budget", "a", b"1")
    assert await store.changes_since(9) == (1, [Change("budget", "a", b"1", 1)])


async def test_a_change_of_what_changed_meanwhile_is_refused(store: Store) -> None:
    await store.put("budget", "a", b"1", expected=0)
    with pytest.raises(Conflict):
        await store.put("budget", "a", b"2", expected=0)
    await store.put("budget", "a", b"2", expected=1)
    with pytest.raises(Conflict):
        await store.put("budget", "a", None, expected=1)
    assert await store.changes_since(0) == (2, [Change("budget", "a", b"2", 2)])


async def test_what_was_deleted_does_not_exist(store: Store) -> None:
    await store.put("budget", "a", b"1")
    await store.put("budget", "a", None, expected=1)
    with pytest.raises(Conflict):
        await store.put("budget", "a", b"2", expected=2)
    assert await store.put("budget", "a", b"2", expected=0) == 3


async def test_kinds_and_odd_ids_are_kept_apart(store: Store) -> None:
    for document_id in ("a", "b:c", "{x}", "é 名"):
        await store.put("budget", document_id, b"budget")
        await store.put("key", document_id, b"key")
    _, changes = await store.changes_since(0)
    assert [(c.kind, c.id) for c in changes] == [
        (kind, i) for i in ("a", "b:c", "{x}", "é 名") for kind in ("budget", "key")
    ]


async def test_of_those_who_create_at_once_one_wins(store: Store) -> None:
    outcomes = await asyncio.gather(
        *(store.put("budget", "a", str(i).encode(), expected=0) for i in range(50)), return_exceptions=True
    )
    assert [o for o in outcomes if not isinstance(o, Conflict)] == [1]
    version, [change] = await store.changes_since(0)
    assert (version, change.version) == (1, 1)


async def test_every_change_is_an_event(store: Store) -> None:
    await store.put("budget", "a", b'{"x":1}')
    await store.put("budget", "a", None)
    written = await events(store, "document")
    assert [(e["id"], e["change"], e["version"], e["text"]) for e in written] == [
        ("budget:a", "put", "1", '{"x":1}'),
        ("budget:a", "delete", "2", ""),
    ]
    assert all(int(e["at_ms"]) > 1_700_000_000_000 for e in written)
