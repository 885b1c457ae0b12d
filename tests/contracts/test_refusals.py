"""What a store remembers of a refusal: which accounts there were, and how they stood when they decided."""

from budget.memory_store import MemoryBudgetStore
from budget.model import ResolveMode
from budget.readers import Readers
from tests.budget.builders import Store, ask, end, fixed, held, refused, terms, wall_ms


async def told(store: Store) -> list[dict[str, str]]:
    """The refusals, oldest first."""
    if isinstance(store, MemoryBudgetStore):
        return store.refusals
    return [fields for _, fields in await Readers(store).refusals("", 100)]


async def test_every_account_of_the_chain_with_its_numbers_at_that_time(store: Store) -> None:
    wide, narrow = terms("wide", limit=1000), terms("narrow", limit=100, hard=120)
    await held(store, "h1", 90, wide, narrow)
    await end(store, ResolveMode.SETTLE, "h1", [wide, narrow], 90)
    await held(store, "h2", 25, wide, narrow)
    before_ms = wall_ms()
    await store.reserve(ask("h3", [wide, narrow], fixed(31, "11"), detail=b'{"request_id":"req_3"}'))
    (refusal,) = await told(store)
    at_ms = int(refusal.pop("at_ms"))
    assert before_ms - 1 <= at_ms <= wall_ms() + 1
    assert refusal == {
        "hold": "h3",
        "code": "budget_exceeded",
        "account": "1",
        "needed_nano": "31",
        "accounts": f"{wide.id}\n{narrow.id}",
        "balances": "90 25 0 1000 1000\n90 25 1 100 120",
        "detail": '{"request_id":"req_3"}',
    }


async def test_numbers_up_to_the_largest_limit(store: Store) -> None:
    most = 2**53 - 1
    account = terms(limit=most)
    await held(store, "h1", most - 7, account)
    await refused(store, "h2", 8, account)
    (refusal,) = await told(store)
    assert (refusal["code"], refusal["balances"]) == ("budget_held", f"0 {most - 7} 0 {most} {most}")


async def test_a_refusal_by_nobody_in_particular(store: Store) -> None:
    await refused(store, "h1", 1)
    (refusal,) = await told(store)
    assert (refusal["code"], refusal["account"], refusal["accounts"], refusal["balances"]) == ("no_budget", "", "", "")
