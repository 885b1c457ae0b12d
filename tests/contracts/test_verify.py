"""Verification finds each kind of drift, and none where there is none."""

import json
from dataclasses import asdict, replace

import pytest

from budget import verify as module
from budget.memory_store import MemoryBudgetStore
from budget.model import Basis, Resolution, ResolveMode
from budget.verify import Fold, verify
from tests.budget.builders import ask, fixed, terms, wall_ms


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0)


async def books() -> MemoryBudgetStore:
    store = MemoryBudgetStore(wall_ms)
    account = terms()
    for number in range(3):
        await store.reserve(ask(f"hld_{number}", [account], fixed(10)))
    await store.resolve(Resolution("hld_0", ResolveMode.SETTLE, (account.id,), 7, Basis.EXACT))
    await store.resolve(Resolution("hld_1", ResolveMode.VOID, (account.id,)))
    return store


async def test_books_that_agree():
    result = await verify(await books())
    assert (result.accounts, result.open_holds, result.drift) == (1, 1, [])


@pytest.mark.parametrize(
    ("field", "rule"), [("held_nano", "held is the sum of the open holds"), ("spent_nano", "spent is the sum of")]
)
async def test_a_balance_that_is_off_by_one(field: str, rule: str):
    store = await books()
    (account,) = store.accounts.values()
    setattr(account, field, getattr(account, field) + 1)
    (drift,) = (await verify(store)).drift
    assert drift.rule.startswith(rule) and drift.found == drift.expected + 1


async def test_a_lost_hold():
    store = await books()
    del store.holds["hld_2"]
    balance, hold = (await verify(store)).drift
    assert (balance.expected, balance.found) == (0, 10)
    assert (hold.rule, hold.subject) == ("a hold that has not ended is open", "hld_2")


async def test_a_hold_without_an_event():
    store = await books()
    store.log = [e for e in store.log if e.get("hold") != "hld_2"]
    (drift,) = (await verify(store)).drift
    assert (drift.rule, drift.subject) == ("an open hold has an event", "hld_2")


async def test_a_hold_released_twice():
    store = await books()
    settled = next(e for e in store.log if e["type"] == "settle")
    store.log.append(dict(settled, delta_nano="0"))
    (drift,) = (await verify(store)).drift
    assert drift.subject == "hld_0" and drift.found == 2


async def test_a_release_of_what_was_never_held():
    store = await books()
    store.log = [e for e in store.log if (e["type"], e.get("hold")) != ("hold", "hld_1")]
    (drift,) = (await verify(store)).drift
    assert drift.subject == "hld_1"


async def test_who_checks_often_reads_only_what_is_new():
    store, fold = await books(), Fold()
    assert (await verify(store, fold)).drift == []
    read = fold.events
    store.log[0]["type"] = "unreadable"
    await store.resolve(Resolution("hld_2", ResolveMode.SETTLE, (terms().id,), 7, Basis.EXACT))
    result = await verify(store, fold)
    assert (result.drift, result.events, result.open_holds) == ([], read + 1, 0)


async def test_the_result_can_be_printed_as_json():

    result = await verify(await books())
    assert json.loads(json.dumps(asdict(replace(result, events=1))))["events"] == 1
