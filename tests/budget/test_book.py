"""Which budgets watch a scope."""

from dataclasses import replace

import pytest

from budget.book import BudgetBook
from budget.model import Budget
from core.errors import NotFound
from core.scope import Scope

NOON_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
BOT, OTHER, ANY = Scope("agent", "bot"), Scope("agent", "other"), Scope("agent", "*")
DAY = Budget("any-day", ANY, 100)
MONTH = Budget("any-month", ANY, 1000, cadence="monthly")
BOT_DAY = Budget("bot-day", BOT, 5)


def ids(book: BudgetBook, scope: Scope) -> list[str]:
    return sorted(b.id for b in book.for_scope(scope))


def test_a_wildcard_watches_each_key_of_its_type_apart() -> None:
    book = BudgetBook([DAY])
    assert ids(book, BOT) == ids(book, OTHER) == ["any-day"]
    assert ids(book, Scope("team", "bot")) == []
    accounts = book.accounts([BOT, OTHER], NOON_MS)
    assert [a.id for a in accounts] == ["any-day:2026-11-23:bot", "any-day:2026-11-23:other"]


def test_an_exact_key_wins_over_the_wildcard_of_its_cadence_only() -> None:
    book = BudgetBook([DAY, MONTH, BOT_DAY])
    assert ids(book, BOT) == ["any-month", "bot-day"]
    assert ids(book, OTHER) == ["any-day", "any-month"]


def test_several_budgets_may_watch_one_scope() -> None:
    book = BudgetBook([BOT_DAY, replace(BOT_DAY, id="bot-day-2"), replace(BOT_DAY, id="bot-w", cadence="weekly")])
    assert ids(book, BOT) == ["bot-day", "bot-day-2", "bot-w"]


def test_a_paused_budget_is_out_of_force_and_lifts_nothing() -> None:
    book = BudgetBook([DAY, replace(BOT_DAY, paused=True), replace(MONTH, paused=True)])
    assert ids(book, BOT) == ["any-day"]
    assert len(book.all()) == 3


def test_accounts_come_in_the_order_of_the_chain() -> None:
    team = Budget("team", Scope("team", "ml"), 7)
    book = BudgetBook([team, DAY], smallest_call_nano=20)
    accounts = book.accounts([BOT, Scope("user", "nobody"), Scope("team", "ml")], NOON_MS)
    assert [(a.budget.id, a.scope.key, a.stop_at_nano) for a in accounts] == [
        ("any-day", "bot", 101),
        ("team", "ml", 0),
    ]
    assert book.accounts([], NOON_MS) == ()


def test_a_budget_that_moves_to_another_scope_leaves_the_old_one() -> None:
    book = BudgetBook([BOT_DAY])
    book.put(replace(BOT_DAY, scope=OTHER))
    assert (ids(book, BOT), ids(book, OTHER)) == ([], ["bot-day"])
    book.remove("bot-day")
    book.remove("bot-day")
    assert (ids(book, OTHER), book.all()) == ([], [])


def test_a_budget_is_found_by_its_id() -> None:
    book = BudgetBook([MONTH, DAY])
    assert book.get("any-day") is DAY
    assert [b.id for b in book.all()] == ["any-day", "any-month"]
    with pytest.raises(NotFound, match="there is no budget none"):
        book.get("none")


def test_a_book_of_its_own_takes_any_call_for_possible() -> None:
    """Without a smallest call, an account is stopped only once its hard cap is spent."""
    book = BudgetBook([BOT_DAY])
    assert (book.version, book.smallest_call_nano) == (0, 1)
    [account] = book.accounts([BOT], NOON_MS)
    assert account.stop_at_nano == account.hard_nano == 6
