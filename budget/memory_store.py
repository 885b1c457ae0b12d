"""The executable specification of the live state: plain Python, one process, the oracle of the tests.

What the Lua scripts do on Redis is said here in the order in which they do it; `tests/contracts` runs one suite on
both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from budget.checks import check_request, check_resolution
from budget.model import (
    UNAFFECTED,
    AccountTerms,
    Balance,
    Hold,
    HoldStatus,
    Refusal,
    ReserveRequest,
    Resolution,
    ResolveMode,
    Settlement,
    StaleSnapshot,
)
from budget.policy import Choice, decide
from budget.ports import (
    ACCOUNT_KEPT_AFTER_END_MS,
    MAX_CLOCK_SKEW_MS,
    AccountBalance,
    Change,
    Continuity,
    DueHold,
    FoundHold,
    OpenHold,
)
from budget.verify import Trimmed
from core.errors import Conflict, InvalidInput, StoreUnavailable


@dataclass(slots=True)
class _Account:
    spent_nano: int = 0
    held_nano: int = 0
    state: int = 0
    terms: AccountTerms | None = None


@dataclass(slots=True)
class _Hold:
    status: HoldStatus
    amount_nano: int = 0
    cost_nano: int = 0
    candidate: int = 0
    tokens: int = 0
    account_ids: tuple[str, ...] = ()
    until_ms: int = 0
    owner: str = ""
    trued: bool = False
    detail: bytes = b"{}"


@dataclass(slots=True)
class MemoryBudgetStore:
    """`budget.ports.BudgetStore` and `Documents` in this process. `now_ms` is the store's own clock."""

    now_ms: Callable[[], int]
    accounts: dict[str, _Account] = field(default_factory=dict)
    holds: dict[str, _Hold] = field(default_factory=dict)
    log: list[dict[str, str]] = field(default_factory=list)
    refusals: list[dict[str, str]] = field(default_factory=list)
    sequence: int = 0
    version: int = 0
    documents: dict[tuple[str, str], tuple[int, bytes | None]] = field(default_factory=dict)

    async def reserve(self, request: ReserveRequest) -> Hold | Refusal | StaleSnapshot:
        """Hold the ceiling of the first candidate that fits on all its accounts, or on none."""
        check_request(request)
        known = self.holds.get(request.hold_id)
        if known and (known.status is not HoldStatus.HELD or known.owner != request.owner):
            raise Conflict(f"the hold {request.hold_id} is another call's, or has ended ({known.status.value})")
        if known:
            known.until_ms = self.now_ms() + request.lease_ms  # its worker has only now heard of it
            balances = self._read(request.accounts)
            return Hold(request.hold_id, known.candidate, known.tokens, known.amount_nano, balances)
        if abs(self.now_ms() - request.now_ms) > MAX_CLOCK_SKEW_MS:
            raise StoreUnavailable("this worker's clock is off the store's; at most 5 s are allowed")
        if request.version != self.version:
            return StaleSnapshot(self.version)
        balances = self._read(request.accounts)
        verdict = decide(request.accounts, balances, request.candidates)
        held_on = () if isinstance(verdict, Refusal) else _held_on(request, verdict)
        for terms, balance in zip(request.accounts, balances, strict=True):
            if terms.id in self.accounts or balance.state != 0 or terms.id in held_on:
                account = self.accounts.setdefault(terms.id, _Account())
                # Also when nothing is held: settlements of older holds are judged by them.
                self._agree(account, terms)
                self._enter(account, terms, request.hold_id, "limits")
        if isinstance(verdict, Refusal):
            self._refuse(request, verdict)
            return verdict
        opened = OpenHold(
            request.hold_id,
            verdict.amount_nano,
            held_on,
            verdict.candidate,
            verdict.tokens,
            request.owner,
            request.detail,
        )
        self._open(opened, request.lease_ms)
        balances = self._read(request.accounts)
        return Hold(request.hold_id, verdict.candidate, verdict.tokens, verdict.amount_nano, balances)

    def _open(self, hold: OpenHold, lease_ms: int) -> None:
        for account_id in hold.account_ids:
            self.accounts.setdefault(account_id, _Account()).held_nano += hold.amount_nano
        self._begin(hold, lease_ms)

    def _begin(self, hold: OpenHold, lease_ms: int) -> None:
        self.holds[hold.id] = _Hold(
            HoldStatus.HELD,
            hold.amount_nano,
            candidate=hold.candidate,
            tokens=hold.tokens,
            account_ids=hold.account_ids,
            until_ms=self.now_ms() + lease_ms,
            owner=hold.owner,
            detail=hold.detail,
        )
        self._log(
            type="hold",
            hold=hold.id,
            amount_nano=str(hold.amount_nano),
            candidate=str(hold.candidate),
            tokens=str(hold.tokens),
            accounts="\n".join(hold.account_ids),
            owner=hold.owner,
            detail=hold.detail.decode(),
        )

    async def restore(self, hold: OpenHold, lease_ms: int) -> HoldStatus:
        """Hold again what the store does not know; the status that it has now."""
        known = self.holds.get(hold.id)
        if known is None:
            self._open(hold, lease_ms)
        return self.holds[hold.id].status

    @property
    def epoch(self) -> str | None:
        """There is one."""
        return "memory"

    async def look(self) -> Continuity:
        """A memory that can't be lost without its process."""
        return Continuity("memory", self.sequence)

    def join(self, epoch: str, sequence: int) -> None:
        """There is one epoch."""

    async def resolve(self, resolution: Resolution) -> Settlement:
        """End a hold: post what it cost, release it, append the event."""
        check_resolution(resolution)
        hold = self.holds.get(resolution.hold_id) or _Hold(HoldStatus.NONE)
        before = hold.status
        if not set(hold.account_ids) <= set(resolution.account_ids):
            raise InvalidInput("accountIds", "must name every account of the hold")
        after = self._after(hold, resolution.mode)
        if before is HoldStatus.HELD and resolution.only_owner not in ("", hold.owner):
            after = None
        if after is None:
            return Settlement(before, False, 0, 0, self._pairs(resolution.account_ids), self.sequence)
        cost_nano = _cost(hold, resolution)
        delta_nano = cost_nano - hold.cost_nano
        was_held = before is HoldStatus.HELD
        overage_nano = max(0, cost_nano - hold.amount_nano) if was_held else 0
        following = resolution.next_hold if was_held else None
        if following and cost_nano + following.amount_nano > hold.amount_nano:
            raise InvalidInput("nextHold", "must fit into what the cost leaves of its hold")
        terms_of = {t.id: t for t in resolution.terms}
        on = hold.account_ids if before is not HoldStatus.NONE else resolution.account_ids
        for account_id in on if was_held or delta_nano or terms_of else ():
            account = self.accounts.setdefault(account_id, _Account())
            if account_id in terms_of:
                self._agree(account, terms_of[account_id])
            account.held_nano += (following.amount_nano if following else 0) - (hold.amount_nano if was_held else 0)
            account.spent_nano += delta_nano
            if account.terms and (delta_nano or terms_of):
                self._enter(account, account.terms, resolution.hold_id, "spend")
        hold.status, hold.cost_nano = after, cost_nano
        hold.account_ids = on
        hold.trued = hold.trued or resolution.mode is ResolveMode.TRUE_UP
        self.holds[resolution.hold_id] = hold
        if before is not HoldStatus.NONE or resolution.mode is not ResolveMode.VOID:
            self._append(resolution, before, cost_nano, delta_nano, overage_nano)
        if following:
            money, detail = following.amount_nano, following.detail
            opened = OpenHold(following.id, money, on, hold.candidate, hold.tokens, resolution.owner, detail)
            self._begin(opened, resolution.lease_ms)
        pairs = self._pairs(resolution.account_ids)
        return Settlement(before, True, delta_nano, overage_nano, pairs, self.sequence)

    def _after(self, hold: _Hold, mode: ResolveMode) -> HoldStatus | None:
        """The table at the head of lua/resolve.lua; None: no effect."""
        status = hold.status
        if mode is ResolveMode.SETTLE:
            return None if status is HoldStatus.SETTLED else HoldStatus.SETTLED
        if mode is ResolveMode.POST:
            return HoldStatus.SETTLED if status is HoldStatus.NONE else None
        if mode is ResolveMode.VOID:
            return None if status in (HoldStatus.SETTLED, HoldStatus.VOIDED) else HoldStatus.VOIDED
        if mode is ResolveMode.EXPIRE:
            over = status is HoldStatus.HELD and hold.until_ms <= self.now_ms()
            return HoldStatus.EXPIRED if over else None
        posted = status in (HoldStatus.SETTLED, HoldStatus.EXPIRED)
        return status if posted and not hold.trued else None

    async def find(self, hold_id: str) -> FoundHold | None:
        """What is remembered of a hold; None if nothing."""
        hold = self.holds.get(hold_id)
        if hold is None:
            return None
        return FoundHold(hold.status, hold.account_ids, hold.amount_nano, hold.cost_nano)

    async def extend(self, hold_ids: Sequence[str], lease_ms: int) -> list[str]:
        """Renew leases; returns the ids that are no longer held."""
        gone = []
        for hold_id in hold_ids:
            hold = self.holds.get(hold_id)
            if hold and hold.status is HoldStatus.HELD:
                hold.until_ms = self.now_ms() + lease_ms
            else:
                gone.append(hold_id)
        return gone

    async def due(self, limit: int) -> list[DueHold]:
        """Holds whose lease is over, oldest first."""
        now_ms = self.now_ms()
        rows = [(h.until_ms, i) for i, h in self.holds.items() if h.status is HoldStatus.HELD]
        ids = [i for until_ms, i in sorted(rows) if until_ms <= now_ms][:limit]
        return [DueHold(i, self.holds[i].account_ids) for i in ids]

    async def balances(self, account_ids: Sequence[str]) -> list[AccountBalance]:
        """Balances, in the order asked."""
        pairs = self._pairs(account_ids)
        return [AccountBalance(a, spent, held) for a, (spent, held) in zip(account_ids, pairs, strict=True)]

    async def current_accounts(self, now_ms: int) -> list[str]:
        """Ids of the accounts whose period is not over."""
        ends = {i: a.terms.period.end_ms for i, a in self.accounts.items() if a.terms}
        return sorted(i for i, end_ms in ends.items() if end_ms is None or end_ms > now_ms)

    async def all_accounts(self) -> list[str]:
        """Ids of every account that is kept."""
        return sorted(self.accounts)

    async def open_holds(self) -> list[OpenHold]:
        """Every hold that has not ended."""
        held = [(i, h) for i, h in self.holds.items() if h.status is HoldStatus.HELD]
        return [OpenHold(i, h.amount_nano, h.account_ids) for i, h in held]

    async def changes_since(self, version: int) -> tuple[int, list[Change]]:
        """(newest version, every document that changed after `version`, in its present form)."""
        floor = version if self.version > version else -1
        if self.version == version:
            return version, []
        rows = sorted((v, k, i, t) for (k, i), (v, t) in self.documents.items() if v > floor)
        return self.version, [Change(k, i, t, v) for v, k, i, t in rows]

    async def put(self, kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        """Write or delete a document; returns the new version."""
        version, present = self.documents.get((kind, document_id), (0, None))
        if expected is not None and (version if present is not None else 0) != expected:
            raise Conflict(f"{kind} {document_id} was changed meanwhile, or exists already")
        self.version += 1
        self.documents[(kind, document_id)] = (self.version, text)
        self._log(
            type="document",
            id=f"{kind}:{document_id}",
            change="delete" if text is None else "put",
            version=str(self.version),
            text=(text or b"").decode(),
        )
        return self.version

    async def trimmed(self) -> Trimmed:
        """Nothing ever goes here."""
        return Trimmed()

    async def events(self, after: str = "-", count: int = 1000) -> list[tuple[str, dict[str, str]]]:
        """Events of money, state and configuration, oldest first."""
        start = 0 if after == "-" else int(after.removeprefix("(")) + after.startswith("(")
        return [(str(i), e) for i, e in enumerate(self.log) if i >= start][:count]

    def _read(self, accounts: tuple[AccountTerms, ...]) -> tuple[Balance, ...]:
        rows = [self.accounts.get(t.id, _Account()) for t in accounts]
        return tuple(
            Balance(a.spent_nano, a.held_nano, t.state_at(a.spent_nano)) for t, a in zip(accounts, rows, strict=True)
        )

    def _pairs(self, account_ids: Sequence[str]) -> tuple[tuple[int, int], ...]:
        rows = [self.accounts.get(i, _Account()) for i in account_ids]
        return tuple((a.spent_nano, a.held_nano) for a in rows)

    def _agree(self, account: _Account, terms: AccountTerms) -> None:
        """One event per change of limits."""
        was, account.terms = account.terms, terms
        if was and was.limits == terms.limits:
            return
        end_ms = terms.period.end_ms
        self._log(
            type="terms",
            account=terms.id,
            terms=terms.limits,
            period_end_ms="" if end_ms is None else str(end_ms),
            keep_until_ms="" if end_ms is None else str(end_ms + ACCOUNT_KEPT_AFTER_END_MS),
        )

    def _enter(self, account: _Account, terms: AccountTerms, cause: str, why: str) -> None:
        """One event per change of state."""
        state = int(terms.state_at(account.spent_nano))
        if state == account.state:
            return
        self._log(
            type="state",
            account=terms.id,
            **{"from": str(account.state)},
            to=str(state),
            spent_nano=str(account.spent_nano),
            limit_nano=str(terms.limit_nano),
            cause=cause,
            why=why,
        )
        account.state = state

    def _append(self, r: Resolution, before: HoldStatus, cost: int, delta: int, overage: int) -> None:
        hold = self.holds[r.hold_id]
        detail = hold.detail if r.mode is ResolveMode.EXPIRE else r.detail
        self._log(
            type=r.mode.value,
            hold=r.hold_id,
            before=before.value,
            cost_nano=str(cost),
            delta_nano=str(delta),
            overage_nano=str(overage),
            held_nano=str(hold.amount_nano),
            basis=r.basis.value,
            accounts="\n".join(hold.account_ids),
            spent_after=" ".join(str(spent) for spent, _ in self._pairs(hold.account_ids)),
            detail=detail.decode(),
        )

    def _refuse(self, request: ReserveRequest, refusal: Refusal) -> None:
        """Refusals are kept apart from the events, with what each account had: "spent held state limit hard"."""
        balances = [
            f"{b.spent_nano} {b.held_nano} {b.state:d} {t.limit_nano} {t.hard_nano}"
            for t, b in zip(request.accounts, self._read(request.accounts), strict=True)
        ]
        self.refusals.append(
            {
                "hold": request.hold_id,
                "code": refusal.code.value,
                "account": "" if refusal.account is None else str(refusal.account),
                "needed_nano": str(refusal.needed_nano),
                "accounts": "\n".join(t.id for t in request.accounts),
                "balances": "\n".join(balances),
                "detail": request.detail.decode(),
                "at_ms": str(self.now_ms()),
            }
        )

    def _log(self, **fields: str) -> None:
        self.sequence += 1
        self.log.append({"seq": str(self.sequence), **fields, "at_ms": str(self.now_ms())})


def _held_on(request: ReserveRequest, choice: Choice) -> tuple[str, ...]:
    watched = request.candidates[choice.candidate].watched
    return tuple(t.id for t, mark in zip(request.accounts, watched, strict=True) if mark != UNAFFECTED)


def _cost(hold: _Hold, resolution: Resolution) -> int:
    if resolution.mode is ResolveMode.VOID:
        return 0
    return hold.amount_nano if resolution.mode is ResolveMode.EXPIRE else resolution.cost_nano
