"""The pure decisions: which limits hold, and which candidate fits."""

from dataclasses import replace
from decimal import Decimal

from hypothesis import event, example, given
from hypothesis import strategies as st

from budget.model import (
    AccountTerms,
    Balance,
    Budget,
    BudgetState,
    Candidate,
    Policy,
    Refusal,
    RefusalCode,
    Reset,
    TopUp,
)
from budget.policy import Choice, account_id, account_terms, decide, parse_account_id
from core.period import period_at
from core.scope import Scope
from tests.budget.builders import fixed, metered, terms

Case = tuple[tuple[AccountTerms, ...], tuple[Balance, ...], tuple[Candidate, ...]]

NOON_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z
amounts = st.integers(0, 60)
limits_of_cases = st.sampled_from([20, 60, 100, 150])
holds = st.sampled_from([0, 0, 10]) | amounts
prices = st.integers(0, 30)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Accounts with any balance, and candidates that some of them watch."""
    count = draw(st.integers(1, 4))
    accounts = []
    for i in range(count):
        limit = draw(limits_of_cases)
        accounts.append(
            terms(
                f"k{i}",
                limit=limit,
                hard=limit + draw(st.sampled_from([0, 10, 40])),
                smallest=draw(st.integers(1, 5)),
            )
        )
    balances = []
    for account in accounts:
        spent = draw(amounts | st.integers(account.limit_nano - 20, account.hard_nano).map(abs))
        balances.append(Balance(spent, draw(holds), account.state_at(spent)))
    candidates = []
    for _ in range(draw(st.integers(0, 4))):
        tokens = draw(st.integers(0, 40))
        watched = draw(st.text("-011", min_size=count, max_size=count))
        out_pico = draw(st.sampled_from([0, 1, 400, 1000, 3000]))
        candidates.append(Candidate("m", draw(prices), out_pico, tokens, draw(st.integers(0, tokens)), watched))
    return tuple(accounts), tuple(balances), tuple(candidates)


def watching(candidate: Candidate) -> list[int]:
    return [i for i, mark in enumerate(candidate.watched) if mark != "-"]


def fits(case: Case, candidate: Candidate) -> bool:
    """Said the slow way: every number of tokens is tried on every account that watches."""
    accounts, balances, _ = case
    seen = [(accounts[i], balances[i], candidate.watched[i]) for i in watching(candidate)]
    if not seen or any(b.spent_nano >= a.stop_at_nano for a, b, _ in seen):
        return False
    if any(mark == "0" and b.spent_nano > a.limit_nano for a, b, mark in seen):
        return False
    room = min(a.hard_nano - b.spent_nano - b.held_nano for a, b, _ in seen)
    return any(candidate.ceiling_nano(n) <= room for n in range(candidate.min_tokens, candidate.tokens + 1))


@given(cases())
@example(((terms(limit=10),), (Balance(0, 0, BudgetState.ACTIVE),), (fixed(10),)))
@example(((terms(limit=10, hard=30),), (Balance(11, 0, BudgetState.DEGRADED),), (fixed(1, "0"), fixed(2))))
def test_the_first_that_fits_is_chosen(case: Case) -> None:
    choice = decide(*case)
    expected = next((i for i, c in enumerate(case[2]) if fits(case, c)), None)
    assert (choice.candidate if isinstance(choice, Choice) else None) == expected


@given(cases())
def test_what_is_chosen_fits_and_is_allowed_everywhere(case: Case) -> None:
    accounts, balances, candidates = case
    choice = decide(*case)
    event(type(choice).__name__)
    if isinstance(choice, Refusal):
        return
    candidate = candidates[choice.candidate]
    assert watching(candidate)
    assert choice.amount_nano == candidate.ceiling_nano(choice.tokens)
    assert candidate.min_tokens <= choice.tokens <= candidate.tokens
    for i in watching(candidate):
        assert balances[i].spent_nano + balances[i].held_nano + choice.amount_nano <= accounts[i].hard_nano
        assert balances[i].state is not BudgetState.STOPPED
        assert candidate.watched[i] == "1" or balances[i].state < BudgetState.DEGRADED


@given(cases())
def test_an_answer_is_shortened_only_as_far_as_needed(case: Case) -> None:
    accounts, balances, candidates = case
    choice = decide(*case)
    if isinstance(choice, Refusal):
        return
    candidate = candidates[choice.candidate]
    if choice.tokens < candidate.tokens:
        room = min(accounts[i].hard_nano - balances[i].spent_nano - balances[i].held_nano for i in watching(candidate))
        assert candidate.ceiling_nano(choice.tokens + 1) > room


@given(cases())
def test_waiting_is_advised_exactly_if_it_would_help(case: Case) -> None:
    accounts, balances, candidates = case
    verdict = decide(*case)
    if isinstance(verdict, Choice):
        return
    idle = tuple(replace(b, held_nano=0) for b in balances)
    would_fit = isinstance(decide(accounts, idle, candidates), Choice)
    assert (verdict.code is RefusalCode.HELD) == would_fit


@given(cases())
def test_a_refusal_is_true_of_the_account_that_it_names(case: Case) -> None:
    accounts, balances, _ = case
    verdict = decide(*case)
    if isinstance(verdict, Choice):
        return
    assert verdict.balances == balances
    if verdict.account is None:
        assert verdict.code in (RefusalCode.NO_BUDGET, RefusalCode.NO_MODEL)
        return
    account, balance = accounts[verdict.account], balances[verdict.account]
    free = account.hard_nano - balance.spent_nano
    if verdict.code is RefusalCode.STOPPED:
        assert balance.state is BudgetState.STOPPED
    elif verdict.code is RefusalCode.EXCEEDED:
        assert verdict.needed_nano > free
    else:
        assert free - balance.held_nano < verdict.needed_nano <= free


@given(cases())
def test_nothing_is_admitted_without_a_budget(case: Case) -> None:
    accounts, balances, candidates = case
    unwatched = tuple(replace(c, watched="-" * len(accounts)) for c in candidates)
    verdict = decide(accounts, balances, unwatched)
    assert isinstance(verdict, Refusal)
    assert verdict.code is (RefusalCode.NO_BUDGET if candidates else RefusalCode.NO_MODEL)
    assert decide((), (), candidates) == Refusal(RefusalCode.NO_BUDGET, None, 0, ())


limits = st.integers(0, 10**12)
soft_caps = st.decimals("0.01", 1, places=2)
hard_caps = st.decimals(1, 100, places=2)


@given(limits, soft_caps, hard_caps, st.integers(1, 10**9), st.integers(0, 10**14))
def test_states_are_thresholds_of_spend(limit: int, soft: Decimal, hard: Decimal, smallest: int, spent: int) -> None:
    budget = Budget("b", Scope("agent", "*"), limit, policy=Policy(soft, hard))
    account = account_terms(budget, Scope("agent", "bot"), NOON_MS, smallest)
    state = account.state_at(spent)
    if spent >= hard * limit or spent + smallest > hard * limit:
        assert state is BudgetState.STOPPED
    elif spent > limit:
        assert state is BudgetState.DEGRADED
    elif spent > soft * limit:
        assert state is BudgetState.WARNED
    else:
        assert state is BudgetState.ACTIVE
    assert account.state_at(spent + 1) >= state


def test_an_account_is_stopped_from_where_the_smallest_call_fits_no_more() -> None:
    account = account_terms(Budget("b", Scope("agent", "bot"), 100), Scope("agent", "bot"), NOON_MS, 20)
    assert (account.soft_nano, account.limit_nano, account.hard_nano) == (80, 100, 120)
    states = [account.state_at(spent) for spent in (0, 80, 81, 100)]
    assert states == [BudgetState.ACTIVE, BudgetState.ACTIVE, BudgetState.WARNED, BudgetState.WARNED]
    roomy = account_terms(Budget("b", Scope("agent", "bot"), 100), Scope("agent", "bot"), NOON_MS, 5)
    states = [roomy.state_at(spent) for spent in (101, 115, 116)]
    assert states == [BudgetState.DEGRADED, BudgetState.DEGRADED, BudgetState.STOPPED]


def top_up(amount: int, *, period: str = "2026-11-23", key: str | None = None, for_ms: int = 1) -> TopUp:
    return TopUp("t", period, key, amount, NOON_MS + for_ms, "why", NOON_MS)


def test_a_top_up_counts_in_its_period_for_its_key_until_it_ends() -> None:
    budget = Budget(
        "b",
        Scope("agent", "*"),
        100,
        top_ups=(
            top_up(1),
            top_up(10, key="bot"),
            top_up(100, key="other"),
            top_up(1000, period="2026-11-22"),
            top_up(10_000, for_ms=0),
        ),
    )
    account = account_terms(budget, Scope("agent", "bot"), NOON_MS, 1)
    assert (account.limit_nano, account.soft_nano, account.hard_nano) == (111, 88, 133)
    assert account_terms(budget, Scope("agent", "x"), NOON_MS, 1).limit_nano == 101


def test_a_reset_starts_another_account() -> None:
    scope, period = Scope("agent", "bot"), period_at("daily", "UTC", NOON_MS)
    budget = Budget("b", Scope("agent", "*"), 100)
    assert account_id(budget, "bot", period) == "b:2026-11-23:bot"
    resets = (
        Reset("2026-11-23", "bot", "why", NOON_MS),
        Reset("2026-11-23", "other", "why", NOON_MS),
        Reset("2026-11-22", None, "why", NOON_MS),
        Reset("2026-11-23", None, "why", NOON_MS),
    )
    after = account_terms(replace(budget, resets=resets), scope, NOON_MS, 1)
    assert after.id == "b:2026-11-23.r2:bot"
    assert parse_account_id(after.id) == ("b", "2026-11-23.r2", "bot")


@given(st.text(min_size=1), st.sampled_from(["daily", "weekly", "quarterly", "total", "every:6h"]))
def test_an_accounts_id_is_read_back(key: str, cadence: str) -> None:
    budget = Budget("my-budget.1", Scope("agent", "*"), 1, cadence=cadence)
    period = period_at(cadence, "UTC", NOON_MS)
    assert parse_account_id(account_id(budget, key, period)) == ("my-budget.1", period.id, key)


def test_an_account_that_a_call_fills_exactly_is_not_the_one_that_refuses() -> None:
    accounts = (terms("exact", limit=10), terms("full", limit=10))
    exact = Balance(3, 0, BudgetState.ACTIVE)
    spent, in_flight = Balance(4, 0, BudgetState.ACTIVE), Balance(3, 1, BudgetState.ACTIVE)
    call = (fixed(7, "11"),)
    assert decide(accounts, (exact, spent), call) == Refusal(RefusalCode.EXCEEDED, 1, 7, (exact, spent))
    assert decide(accounts, (exact, in_flight), call) == Refusal(RefusalCode.HELD, 1, 7, (exact, in_flight))
    assert decide(accounts, (exact, exact), call) == Choice(0, 1, 7)


def test_a_stopped_account_names_the_least_that_the_call_needs() -> None:
    stopped = (Balance(10, 0, BudgetState.STOPPED),)
    shortest = metered(2, 3, tokens=9, fewest=4)
    assert decide((terms(limit=10),), stopped, (shortest,)) == Refusal(RefusalCode.STOPPED, 0, 14, stopped)


def test_an_answer_may_be_shortened_to_nothing_and_never_beyond_the_room() -> None:
    idle = (Balance(0, 0, BudgetState.ACTIVE),)
    assert decide((terms(limit=5),), idle, (metered(5, 1, tokens=3, fewest=0),)) == Choice(0, 0, 5)
    assert decide((terms(limit=2005),), idle, (metered(5, 1, tokens=9000, fewest=1),)) == Choice(0, 2000, 2005)
