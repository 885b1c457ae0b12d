"""The past once more, under another budget: what would have been spent, downgraded and refused. No I/O but `replay`.

1. Calls come from the ledger in the order in which they came, page by page.
2. Each is decided by `budget.policy.decide` on simulated accounts, which hold what it held then until it ended.
3. What it cost, or would have cost on another model at the prices of that time, is posted when it ended.

What another budget refused stays refused, and what another budget downgraded stays downgraded: only one budget is
another one here. `ASSUMPTIONS` says the rest.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from budget.model import UNAFFECTED, Budget, Candidate
from budget.policy import Choice, decide, parse_account_id
from core.clock import Clock
from core.period import period_at
from core.scope import WILDCARD
from dashboard.replay_books import Books, Terms
from dashboard.what_if import Day, Ladder, Option, Replay, ReplayAsk, Rulebook, Rulebooks, Tally
from ledger.ports import Filter, Interval, LedgerReader, PastCall, PastCallsAsk, SpendAsk
from telemetry.pricing import cost_nano
from telemetry.usage import Tokens

ASSUMPTIONS = (
    "Calls come at the times at which they came; nobody asks for more or less because of other limits.",
    "A call holds what it held until it ended; on another model in proportion to what it costs there. "
    "Answers are not shortened to fit.",
    "On another model a call has the same tokens, at that model's prices of that time.",
    "Of a call that was refused only the least that it needed is known; where it would be let through, "
    "that is what it costs.",
    "What other budgets refused or downgraded stays so; what is let through here is not tried on them again.",
    "What was spent before the first day, in the same period, counts as it was.",
    "The limits are the same for all the time. Top-ups count for their whole period; resets are left out.",
)
#: Holds that were changed and whose correction may still come; the oldest go first.
_MOST_CHANGED = 100_000
_PAGE = 20_000


class Replayer:
    """Takes calls in their order.

    rules, was: of the budget as it would have been, and as it is; the second None: there is none.
    """

    def __init__(self, ask: ReplayAsk, rules: Rulebook, was: Rulebook | None) -> None:
        self._ask, self._rules, self._was = ask, rules, was
        self.simulated, self.actual = Books(), Books()
        self._exempt = frozenset(ask.exempt)
        self._models = {rules.name_of(name): to for name, to in reversed(ask.models)}
        self._of_models = ask.budget.scope.type == "model"
        self._only = ask.budget.scope.key if self._of_models else WILDCARD
        self._days = {start_ms: Day(start_ms) for start_ms in days_of(ask.interval, ask.budget.zone)}
        self._changed: OrderedDict[str, None] = OrderedDict()
        self._found = Replay(list(self._days.values()))

    def take(self, page: Sequence[PastCall]) -> None:
        """The next calls."""
        for call in page:
            if self._key(call) not in self._exempt and self._is_watched(call):
                self.simulated.until(call.start_ms)
                self.actual.until(call.start_ms)
                self._take(call, self._days[period_at("daily", self._ask.budget.zone, call.at_ms).start_ms])
        self._found.read += len(page)
        for books in (self.simulated, self.actual):
            books.forget(page[-1].start_ms if page else 0)

    def finish(self, until_ms: int | None, took_ms: int) -> Replay:
        """What came of it."""
        found = self._found
        found.until_ms, found.took_ms = until_ms, took_ms
        if until_ms is not None:
            found.days = [day for day in found.days if day.start_ms <= until_ms]
        for day in found.days:
            found.actual.add(day.actual)
            found.simulated.add(day.simulated)
        return found

    def _is_watched(self, call: PastCall) -> bool:
        """False: it is of another model than the one that this budget is on."""
        return self._only in (WILDCARD, call.model_served, self._rules.name_of(call.model_requested or ""))

    def _key(self, call: PastCall) -> str | None:
        """Whose accounts it is charged to; a budget on models does not watch what comes from outside."""
        return call.model_served if self._of_models and call.kind != "post" else call.key

    def _take(self, call: PastCall, day: Day) -> None:
        if call.kind == "refusal":
            day.actual.refused += 1
            self._refused(call, day.simulated)
        elif call.kind in ("settle", "expire") and call.posted_nano == call.cost_nano:
            day.actual.add(Tally(1, 0, call.downgraded, call.posted_nano))
            self._charged(call, day.simulated)
            if self._was is not None:
                on = self._was.accounts(self._key(call), call.start_ms)
                self.actual.hold(on, call.held_nano, call.cost_nano, call.at_ms)
        elif call.kind != "void" or call.posted_nano:  # a void of nothing was an attempt that cost nothing
            day.actual.add(Tally(call.kind == "post", 0, 0, call.posted_nano))
            self._posted(call, day.simulated)

    def _posted(self, call: PastCall, tally: Tally) -> None:
        """Spend that nobody decided on, or a correction of what was spent."""
        if self._was is not None:
            on = self._was.accounts(self._key(call), call.start_ms)
            self.actual.hold(on, 0, call.posted_nano, call.at_ms)
        if call.hold_id not in self._changed:  # else it is of a call that is another one here
            on = self._rules.accounts(self._key(call), call.start_ms)
            self.simulated.hold(on, 0, call.posted_nano, call.at_ms)
            tally.add(Tally(call.kind == "post", 0, 0, call.posted_nano))

    def _charged(self, call: PastCall, tally: Tally) -> None:
        asked = wanted = self._rules.name_of(call.model_requested or call.model_served or "")
        if call.downgraded and not self._downgraded_by_this(call, asked):
            asked = call.model_served or asked
        asked = self._models.get(asked, self._models.get(WILDCARD, asked))
        ladder = self._rules.ladder(call.key, asked, call.start_ms)
        if ladder is None:
            self._found.unjudged += 1
            tally.add(Tally(1, 0, call.downgraded, call.cost_nano))
            on = self._rules.accounts(self._key(call), call.start_ms)
            self.simulated.hold(on, call.held_nano, call.cost_nano, call.at_ms)
            return
        costs = [_cost(call, option) for option in ladder.options]
        ceilings = [_ceiling(call, cost) for cost in costs]
        index = _choose(self.simulated, ladder, ceilings)
        if index is None:
            tally.refused += 1
            self._found.refused_cost_nano += call.cost_nano
            self._remember(call)
            return
        model = ladder.options[index].model.name
        tally.add(Tally(1, 0, model != wanted, costs[index]))
        if model != (call.model_served or wanted):  # of one that expired nobody knows where it was served
            self._found.unpriced += not any(_tokens(call))
            self._remember(call)
        self.simulated.hold(_on(ladder, index), ceilings[index], costs[index], call.at_ms)

    def _refused(self, call: PastCall, tally: Tally) -> None:
        ladder = self._rules.ladder(call.key, call.model_requested or "", call.start_ms)
        index = None
        if ladder is not None and self._is_ours(call):
            index = _choose(self.simulated, ladder, [call.needed_nano] * len(ladder.options))
        if ladder is None or index is None:
            tally.refused += 1
            return
        self._found.let_through += 1
        tally.add(Tally(1, 0, 0, call.needed_nano))
        self.simulated.post(_on(ladder, index), call.needed_nano)

    def _is_ours(self, call: PastCall) -> bool:
        """Whether this budget refused it, or the want of one."""
        if call.account_id is None:
            return call.refusal == "no_budget"
        return self._ask.was is not None and parse_account_id(call.account_id)[0] == self._ask.was.id

    def _downgraded_by_this(self, call: PastCall, asked: str) -> bool:
        """Whether the budget as it is would have downgraded it, as its account stood."""
        ladder = self._was.ladder(call.key, asked, call.start_ms) if self._was is not None else None
        if ladder is None:
            return False
        return _choose(self.actual, ladder, [_ceiling(call, _cost(call, option)) for option in ladder.options]) != 0

    def _remember(self, call: PastCall) -> None:
        self._changed[call.hold_id] = None
        if len(self._changed) > _MOST_CHANGED:
            self._changed.popitem(last=False)


async def replay(ask: ReplayAsk, ledger: LedgerReader, rulebooks: Rulebooks, clock: Clock) -> Replay:
    """Read the calls and take them, until all are taken or the time is up.

    Raises:
        LedgerUnavailable: they can't be read.
    """
    began_s, scope = clock.monotonic_s(), ask.budget.scope
    replayer = Replayer(ask, rulebooks.of(ask.budget), rulebooks.of(ask.was) if ask.was else None)
    await _open(replayer.simulated, ask.budget, rulebooks, ledger, ask.interval.start_ms)
    if ask.was:
        await _open(replayer.actual, ask.was, rulebooks, ledger, ask.interval.start_ms)
    of_type = None if scope.type == "model" else scope.type
    of_key = None if of_type is None or scope.is_wildcard else scope.key

    async def read(after: tuple[int, str] | None) -> list[PastCall]:
        return await ledger.past_calls(PastCallsAsk(ask.interval, of_type, of_key, _PAGE, after))

    page, until_ms = await read(None), None
    while page:
        last = page[-1].start_ms, page[-1].identity
        if clock.monotonic_s() - began_s > ask.most_s:
            until_ms = page[0].start_ms
            break
        page, _ = await asyncio.gather(read(last), asyncio.to_thread(replayer.take, page))
    return replayer.finish(until_ms, round((clock.monotonic_s() - began_s) * 1000))


async def _open(books: Books, budget: Budget, rulebooks: Rulebooks, ledger: LedgerReader, start_ms: int) -> None:
    """Post what was spent in the period before the replay begins."""
    period, rules, scope = period_at(budget.cadence, budget.zone, start_ms), rulebooks.of(budget), budget.scope
    before = Interval(period.start_ms, start_ms)
    only = () if scope.is_wildcard else (Filter(scope.type, (scope.key,)),)
    for row in await ledger.calls(SpendAsk(before, (scope.type,), None, budget.zone, only)):
        if row.group[0] is not None:
            books.post(rules.accounts(row.group[0], start_ms), row.cost_nano)


def days_of(interval: Interval, zone: str) -> list[int]:
    """The starts of the days that an interval touches, epoch milliseconds."""
    found, at_ms = [], interval.start_ms
    while at_ms < interval.end_ms:
        day = period_at("daily", zone, at_ms)
        found.append(day.start_ms)
        at_ms = day.end_ms or interval.end_ms
    return found


def _choose(books: Books, ladder: Ladder, ceilings: Sequence[int]) -> int | None:
    """Which option is taken; None: the call is refused. What no account watches is free to go."""
    watched, free = [], None
    for number, (option, ceiling) in enumerate(zip(ladder.options, ceilings, strict=True)):
        if not option.watched.strip(UNAFFECTED):
            free = number
            break
        watched.append(Candidate(option.model.name, ceiling, 0, 1, 1, option.watched))
    if watched:
        verdict = decide(ladder.accounts, books.balances(ladder.accounts), tuple(watched))
        if isinstance(verdict, Choice):
            return verdict.candidate
    return free


def _on(ladder: Ladder, index: int) -> Terms:
    """The accounts that a hold for an option is on."""
    marks = zip(ladder.accounts, ladder.options[index].watched, strict=True)
    return tuple(terms for terms, mark in marks if mark != UNAFFECTED)


def _cost(call: PastCall, option: Option) -> int:
    """What a call would cost there: what it did if it was there, or if nobody knows its tokens."""
    tokens = _tokens(call)
    if option.model.name == call.model_served or not any(tokens):
        return call.cost_nano
    return cost_nano(option.price, Tokens(*tokens))


def _tokens(call: PastCall) -> tuple[int, int, int, int, int]:
    return (
        call.input_tokens,
        call.cached_input_tokens,
        call.cache_write_tokens,
        call.output_tokens,
        call.reasoning_tokens,
    )


def _ceiling(call: PastCall, cost: int) -> int:
    """What a call would have held, if it had cost that much; rounded up."""
    if cost == call.cost_nano:
        return call.held_nano
    return -(-call.held_nano * cost // call.cost_nano) if call.cost_nano else max(call.held_nano, cost)
