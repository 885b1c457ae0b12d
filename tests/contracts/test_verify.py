"""Verification finds each kind of drift, and none where there is none."""

import json
from dataclasses import asdict, replace

import pytest

from budget import verify as module
from budget.memory_store import MemoryBudgetStore
from budget.model import Basis, Resolution, ResolveMode
from budget.verify import verify
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
    (drift,) = (await verify(store)).drift
    assert (drift.expected, drift.found) == (0, 10)


async def test_a_hold_released_twice():
    store = await books()
    store.log.append(dict(store.log[0], delta_nano="0"))
    (drift,) = (await verify(store)).drift
    assert drift.subject == "hld_0" and drift.found == 2


async def test_the_result_can_be_printed_as_json():

    result = await verify(await books())
    assert json.loads(json.dumps(asdict(replace(result, events=1))))["events"] == 1
