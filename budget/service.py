"""Reserve, extend, settle, void, expire: the life of every hold of this worker.

Failure policy: a reserve that can't reach the store refuses the call (`StoreUnavailable`) and leaves a void behind,
so that a reserve which arrives late can't hold money for a call that was never made. A resolution that can't reach
the store waits in the journal on disk and is tried again, by the next worker if this one dies. A hold that nobody
settles is posted in full when its lease ends, unconfirmed.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from budget.book import BudgetBook
from budget.journal import Journal
from budget.model import (
    UNAFFECTED,
    AccountTerms,
    Balance,
    Basis,
    Candidate,
    Hold,
    NextHold,
    Refusal,
    ReserveRequest,
    Resolution,
    ResolveMode,
    Settlement,
    StaleSnapshot,
)
from budget.ports import BudgetStore, OpenHold
from budget.witness import Witness
from core.clock import Clock
from core.errors import InvalidInput, StoreUnavailable
from core.ids import Ids
from core.scope import Scope
from core.values import value

log = logging.getLogger("spendgate.budget")

_STALE_TRIES = 4
_MAX_WAITING = 100_000


@value
class Plan:
    """A call as the budgets see it: its accounts, their ids, and the candidates in order of preference."""

    accounts: tuple[AccountTerms, ...]
    account_ids: tuple[str, ...]
    candidates: tuple[Candidate, ...]


@dataclass(slots=True)
class Admission:
    """A hold that this worker owns, with what it was decided from.

    candidate: the one that fitted. account_ids: of the accounts that the hold is on. watching: those accounts, with
    their balances after it.
    """

    hold: Hold
    plan: Plan
    candidate: Candidate = field(init=False)
    watching: tuple[tuple[AccountTerms, Balance], ...] = field(init=False)
    account_ids: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        plan, balances = self.plan, self.hold.balances
        accounts, ids = plan.accounts, plan.account_ids
        self.candidate = plan.candidates[self.hold.candidate]
        marks = self.candidate.watched
        if UNAFFECTED in marks:
            kept = [n for n, mark in enumerate(marks) if mark != UNAFFECTED]
            accounts, balances = tuple([accounts[n] for n in kept]), tuple([balances[n] for n in kept])
            ids = tuple([ids[n] for n in kept])
        self.watching = tuple(zip(accounts, balances, strict=True))
        self.account_ids = ids


@value
class Refused:
    """A refusal with the plan that it was decided from."""

    refusal: Refusal
    plan: Plan


@dataclass(slots=True)
class BudgetService:
    """One worker's hands on the live state.

    refresh: reads the snapshot again into `book`; called when the store says that it is stale.
    owner: names this worker in its holds.
    lease_ms: how long a hold outlives its worker; renewed at a third of it.
    journal: where settlements wait for a store that is away; None keeps them in memory only.
    overages, overage_nano: settlements of this worker that cost more than their hold, and by how much.
    expired: holds that this worker found with their lease over.
    sending: ends of holds that are on their way to the store, by hold, with what will come of them.
    """

    store: BudgetStore
    book: BudgetBook
    clock: Clock
    ids: Ids
    refresh: Callable[[], Awaitable[None]]
    owner: str
    lease_ms: int = 30_000
    journal: Journal | None = None
    waiting: list[Resolution] = field(default_factory=list)
    overages: int = 0
    overage_nano: int = 0
    expired: int = 0
    sending: dict[str, tuple[Resolution, "asyncio.Future[Settlement]"]] = field(default_factory=dict)
    witness: Witness = field(init=False)
    _reserves: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.witness = Witness(self.store, self.lease_ms)

    @property
    def open_holds(self) -> dict[str, OpenHold]:
        """The holds of the calls that run here."""
        return self.witness.open_holds

    async def reserve(
        self, make_plan: Callable[[int], Plan], *, hold_id: str, detail: bytes = b"{}"
    ) -> Admission | Refused:
        """Hold money for a call, or say why not.

        make_plan: given the worker's time (epoch ms), the plan under the budgets now in the book; called again
            when they turn out to be stale.

        Raises:
            StoreUnavailable: nothing is held; the call must not be made.
        """
        self.witness.check()
        self._reserves += 1
        owner = f"{self.owner}:{self._reserves}"  # a hold is one call's: another call with its id must not use it
        for _ in range(_STALE_TRIES):
            now_ms = self.clock.now_ms()
            plan = make_plan(now_ms)
            request = ReserveRequest(
                hold_id=hold_id,
                owner=owner,
                now_ms=now_ms,
                version=self.book.version,
                lease_ms=self.lease_ms,
                accounts=plan.accounts,
                candidates=plan.candidates,
                detail=detail,
            )
            try:
                verdict = await self.store.reserve(request)
            except StoreUnavailable:
                verdict = await self._ask_again(request)
            except asyncio.CancelledError:
                self._bar(request)
                raise
            if isinstance(verdict, Hold):
                admission = Admission(verdict, plan)
                self._opened(admission, hold_id, verdict.amount_nano, detail, owner)
                return admission
            if isinstance(verdict, Refusal):
                return Refused(verdict, plan)
            await self.refresh()
        raise StoreUnavailable("the budgets change faster than they can be read")

    def _opened(self, admission: Admission, hold_id: str, amount_nano: int, detail: bytes, owner: str) -> None:
        hold = admission.hold
        self.open_holds[hold_id] = OpenHold(
            hold_id, amount_nano, admission.account_ids, hold.candidate, hold.tokens, owner, detail
        )

    async def _ask_again(self, request: ReserveRequest) -> Hold | Refusal | StaleSnapshot:
        """Ask twice under one id: a reply that was lost after the hold was made gives the same hold."""
        try:
            verdict = await self.store.reserve(request)
        except (StoreUnavailable, asyncio.CancelledError):
            self._bar(request)
            raise
        if isinstance(verdict, Refusal):
            self._bar(request)  # the first may still be on its way, and fit when it arrives
        return verdict

    def _bar(self, request: ReserveRequest) -> None:
        """Nobody will use this hold: void it, or bar it if it is still on its way."""
        ids = tuple(a.id for a in request.accounts)
        self._wait(Resolution(request.hold_id, ResolveMode.VOID, ids, only_owner=request.owner))

    def let_go(self, admission: Admission) -> None:
        """Renew this hold no more: if nobody has settled it, it expires, and is charged in full, rather than held for
        ever.
        """
        self.open_holds.pop(admission.hold.id, None)

    def settle(self, admission: Admission, cost_nano: int, basis: Basis, detail: bytes) -> None:
        """Post what the call cost and release its hold. Nobody waits for it: it is on its way when this returns, and
        is brought later if the store is away.
        """
        self._alarm_overage(admission, cost_nano)
        self._end(Resolution(admission.hold.id, ResolveMode.SETTLE, admission.account_ids, cost_nano, basis, detail))

    def void(self, admission: Admission, detail: bytes) -> None:
        """Release a hold for which nothing was charged, in the same way."""
        self._end(Resolution(admission.hold.id, ResolveMode.VOID, admission.account_ids, detail=detail))

    async def all_ended(self) -> None:
        """Return once every end that is on its way has arrived, or waits for the store."""
        while self.sending:
            await asyncio.wait({sent for _, sent in self.sending.values()})

    async def hand_over(
        self,
        admission: Admission,
        following: NextHold,
        *,
        cost_nano: int,
        basis: Basis,
        detail: bytes,
    ) -> bool:
        """End one attempt and hold for the next out of its money, in one step. False: the first hold has ended.

        cost_nano: what the ended attempt is charged; 0 voids it.

        Raises:
            StoreUnavailable: neither is done yet; the end of the first will be.
        """
        mode = ResolveMode.SETTLE if cost_nano else ResolveMode.VOID
        plain = Resolution(admission.hold.id, mode, admission.account_ids, cost_nano, basis, detail)
        resolution = Resolution(
            plain.hold_id,
            mode,
            plain.account_ids,
            cost_nano,
            basis,
            detail,
            next_hold=following,
            lease_ms=self.lease_ms,
            owner=self.owner,
        )
        self.open_holds.pop(admission.hold.id, None)
        try:
            settlement = await self.store.resolve(resolution)
        except (StoreUnavailable, asyncio.CancelledError):
            self._wait(plain)  # in this order: once the first has ended, nothing can hold for the next
            self._wait(Resolution(following.id, ResolveMode.VOID, admission.account_ids))
            raise
        self.witness.saw(plain, settlement)
        if settlement.applied and settlement.before.value == "held":
            self._opened(admission, following.id, following.amount_nano, following.detail, self.owner)
            return True
        return False

    async def post(
        self, hold_id: str, chain: Sequence[Scope], cost_nano: int, basis: Basis, detail: bytes
    ) -> Settlement:
        """Post spend that this gateway did not hold for, once per id, to every account of the chain.

        Raises:
            StoreUnavailable: nothing was posted; the caller may try again with the same id.
        """
        accounts = self.book.accounts(chain, self.clock.now_ms())
        ids = tuple(a.id for a in accounts)
        resolution = Resolution(hold_id, ResolveMode.POST, ids, cost_nano, basis, detail, terms=accounts)
        try:
            settlement = await self.store.resolve(resolution)
        except InvalidInput:
            found = await self.store.find(hold_id)
            if found is None:
                raise
            # It comes again: in another period, or under other budgets, its chain has other accounts.
            return await self.store.resolve(replace(resolution, account_ids=found.account_ids, terms=()))
        self.witness.saw(resolution, settlement)
        return settlement

    async def true_up(self, hold_id: str, cost_nano: int, detail: bytes) -> Settlement | None:
        """Correct the posted cost of a call that this gateway made, once. None: the hold is not remembered.

        Raises:
            StoreUnavailable: nothing was corrected.
        """
        found = await self.store.find(hold_id)
        if found is None:
            return None
        resolution = Resolution(hold_id, ResolveMode.TRUE_UP, found.account_ids, cost_nano, Basis.WEBHOOK, detail)
        settlement = await self.store.resolve(resolution)
        self.witness.saw(resolution, settlement)
        return settlement

    def _end(self, resolution: Resolution) -> None:
        self.open_holds.pop(resolution.hold_id, None)
        sent = asyncio.ensure_future(self.store.resolve(resolution))
        self.sending[resolution.hold_id] = resolution, sent
        sent.add_done_callback(partial(self._ended, resolution))

    def _ended(self, resolution: Resolution, sent: "asyncio.Future[Settlement]") -> None:
        self.sending.pop(resolution.hold_id, None)
        error = StoreUnavailable("cancelled") if sent.cancelled() else sent.exception()
        if error is None:
            self.witness.saw(resolution, sent.result())
        elif isinstance(error, StoreUnavailable):
            self._wait(resolution)  # sending it twice has one effect
        else:
            log.error("hold %s is left to its lease: %s", resolution.hold_id, error)

    def _alarm_overage(self, admission: Admission, cost_nano: int) -> None:
        """A cost above its hold: the bound on the call did not hold, or the provider charged too much."""
        held_nano = admission.hold.amount_nano
        if cost_nano <= held_nano:
            return
        self.overages += 1
        self.overage_nano += cost_nano - held_nano
        log.error(
            "overage: hold %s cost %d and held %d: %d nano-dollars more than it held, posted in full to %s",
            admission.hold.id,
            cost_nano,
            held_nano,
            cost_nano - held_nano,
            ", ".join(f"{terms.scope} ({terms.id})" for terms, _ in admission.watching),
        )

    def _wait(self, resolution: Resolution) -> None:
        if len(self.waiting) >= _MAX_WAITING:
            log.error("too many settlements wait for the store; %s is left to its lease", resolution.hold_id)
            return
        self.waiting.append(resolution)
        if self.journal:
            self.journal.add(resolution)

    def resume(self) -> None:
        """Take over what dead workers left in their journals."""
        if self.journal:
            self.waiting.extend(self.journal.take_over())

    async def flush(self) -> int:
        """Try the waiting resolutions again, in order; returns how many still wait."""
        while self.waiting:
            resolution = self.waiting[0]
            try:
                self.witness.saw(resolution, await self.store.resolve(resolution))
            except StoreUnavailable:
                break
            except InvalidInput as error:  # it would stand in the way of all others for ever
                log.error("hold %s is left to its lease: %s", resolution.hold_id, error.message)
            if self.waiting and self.waiting[0] is resolution:  # another flush may have been faster
                del self.waiting[0]
        if not self.waiting and self.journal:
            self.journal.clear()
        return len(self.waiting)

    async def stop(self) -> int:
        """The last flush of a worker whose calls have ended or been cancelled; returns how many ends of holds the next
        worker has to bring. The process may be gone right after it, with what it was sending.
        """
        for resolution, _ in tuple(self.sending.values()):
            self._wait(resolution)  # sending it twice has one effect
        return await self.flush()

    async def renew(self) -> None:
        """Renew the leases of this worker's open holds."""
        for hold_id in await self.store.extend(tuple(self.open_holds), self.lease_ms):
            if hold_id in self.open_holds:
                log.warning("hold %s ended while its call was still running", hold_id)
                self.open_holds.pop(hold_id, None)

    async def sweep(self, limit: int = 1000) -> int:
        """Expire holds whose lease is over, whoever owned them; returns how many. Any worker may; one effect."""
        expired = 0
        for due in await self.store.due(limit):
            resolution = Resolution(due.id, ResolveMode.EXPIRE, due.account_ids, basis=Basis.UNCONFIRMED)
            settlement = await self.store.resolve(resolution)
            self.witness.saw(resolution, settlement)
            if settlement.applied:
                expired += 1
                self.expired += 1
                log.warning("hold %s expired and is charged in full, unconfirmed", due.id)
        return expired

    async def run(self) -> None:
        """Look, renew, flush and sweep until cancelled. A store that is away is tried again at the next turn."""
        renew_s = self.lease_ms / 3000
        last_renewed_s = self.clock.monotonic_s()
        while True:
            await asyncio.sleep(0.25 if self.waiting else min(1.0, renew_s))
            try:
                await self.witness.look()
                if self.witness.lost:
                    continue  # nothing is written to it, and what it says of leases is not to be believed
                if self.clock.monotonic_s() - last_renewed_s >= renew_s:
                    await self.renew()
                    last_renewed_s = self.clock.monotonic_s()
                await self.flush()
                await self.sweep()
            except StoreUnavailable as error:
                log.warning("the store is away: %s", error.message)
