"""What the two scripts of a call are asked, and what their replies mean: lua/reserve.lua and lua/resolve.lua."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from budget.frames import Frame, Word, packed
from budget.model import (
    AccountTerms,
    Balance,
    BudgetState,
    Hold,
    HoldStatus,
    Refusal,
    RefusalCode,
    ReserveRequest,
    Resolution,
    Settlement,
    StaleSnapshot,
)
from budget.ports import ACCOUNT_KEPT_AFTER_END_MS
from budget.script import Script
from core.errors import Conflict, InvalidInput, StoreUnavailable

_MOST_FRAMES = 10_000
K = TypeVar("K")
V = TypeVar("V")

_STATES = tuple(BudgetState)
_STATUSES = {status.value.encode(): status for status in HoldStatus}


class HotCommands:
    """The commands of one namespace.

    key: the full name of a key, of its parts. keep_ms: how long an ended hold is remembered.
    """

    def __init__(self, key: Callable[..., str], keep_ms: int) -> None:
        self.reserving = Script("budget", "reserve")
        self.resolving = Script("budget", "resolve")
        self._keep_ms = keep_ms
        self._hold, self._account, self._index = key("hold", ""), key("a", ""), key("a")
        self._hold_bytes = self._hold.encode()
        self._first = (key("epoch"), key("events"))
        self._leases = key("leases")
        self._before_hold = (*self._first, key("version"), self._leases, key("refusals"))
        # By the accounts' terms, known by their identity, and the number of candidates; by the accounts' ids.
        self._reserve_frames: dict[tuple[int, int], tuple[object, Frame]] = {}
        self._resolve_frames: dict[tuple[str, ...], Frame] = {}

    def reserve(self, r: ReserveRequest, epoch: str, sequence: int) -> bytes:
        """Hold the ceiling of the first candidate that fits."""
        known = self._reserve_frames.get((id(r.accounts), len(r.candidates)))
        if known is None or known[0] is not r.accounts:
            known = r.accounts, self._reserve_frame(r)
            _keep(self._reserve_frames, (id(r.accounts), len(r.candidates)), known)
        hold_id = r.hold_id.encode()
        return known[1].fill(
            self._hold_bytes + hold_id,
            epoch.encode(),
            b"%d" % sequence,
            b"%d" % r.now_ms,
            b"%d" % r.version,
            hold_id,
            b"%d" % r.lease_ms,
            r.owner.encode(),
            r.detail,
            *[
                b"%d %d %d %d %b" % (c.base_nano, c.out_pico, c.tokens, c.min_tokens, c.watched.encode())
                for c in r.candidates
            ],
        )

    def resolve(self, r: Resolution, replayed_ms: int | None, epoch: str, sequence: int) -> bytes:
        """End a hold: post what it cost, release it, append the event. replayed_ms: see lua/resolve.lua."""
        ids, hold_id, following = r.account_ids, r.hold_id.encode(), r.next_hold
        hold_key = self._hold_bytes + hold_id
        own = (hold_id, r.mode.value.encode(), b"%d" % r.cost_nano, r.basis.value.encode(), r.detail)
        if following is not None or r.terms or r.only_owner or replayed_ms is not None:
            next_key = self._hold_bytes + following.id.encode() if following else hold_key
            tail = _tail(r, replayed_ms)
            return packed(*self._resolve_words(ids, (hold_key, next_key), (epoch, sequence, *own), tail))
        frame = self._resolve_frames.get(ids)
        if frame is None:
            frame = Frame(self._resolve_words(ids, (None, None), (None,) * 7, ()))
            _keep(self._resolve_frames, ids, frame)
        return frame.fill(hold_key, hold_key, epoch.encode(), b"%d" % sequence, *own)

    def _reserve_frame(self, r: ReserveRequest) -> Frame:
        accounts = r.accounts
        ids = [a.id for a in accounts]
        words: list[Word | None] = ["EVALSHA", self.reserving.sha, 7 + len(ids), *self._before_hold, None, self._index]
        words += [self._account + i for i in ids]
        words += [None] * 8
        words += [a.wire for a in accounts]
        return Frame(words + [None] * len(r.candidates))

    def _resolve_words(
        self, ids: Sequence[str], holds: Sequence[Any], own: Sequence[Any], tail: Sequence[Word]
    ) -> list[Any]:
        accounts = [self._account + i for i in ids]
        words = ["EVALSHA", self.resolving.sha, 6 + len(ids), *self._first, self._leases]
        return [*words, *holds, self._index, *accounts, *own, self._keep_ms, *tail]


def _keep(frames: dict[K, V], key: K, frame: V) -> None:
    """So many are kept; then all are made anew."""
    if len(frames) >= _MOST_FRAMES:
        frames.clear()
    frames[key] = frame


def _tail(r: Resolution, replayed_ms: int | None) -> list[Word]:
    """What follows where a resolution is more than the end of a hold."""
    following = r.next_hold
    tail: list[Word] = [following.id, following.amount_nano, following.detail] if following else ["", 0, "{}"]
    tail += [r.lease_ms, r.owner, "" if replayed_ms is None else replayed_ms, r.only_owner]
    for terms in r.terms:
        tail += [terms.limits, *_period(terms)]
    return tail


def _period(terms: AccountTerms) -> tuple[str, str]:
    end_ms = terms.period.end_ms
    return ("", "") if end_ms is None else (str(end_ms), str(end_ms + ACCOUNT_KEPT_AFTER_END_MS))


def read_hold(request: ReserveRequest, reply: bytes) -> tuple[Hold, int]:
    """The hold that lua/reserve.lua made, and how far the store had counted."""
    words = reply.split()
    balances = tuple(
        [Balance(int(words[i]), int(words[i + 1]), _STATES[int(words[i + 2])]) for i in range(5, len(words), 3)]
    )
    return Hold(request.hold_id, int(words[2]), int(words[3]), int(words[4]), balances), int(words[1])


def read_refusal(request: ReserveRequest, reply: list[Any]) -> Refusal | StaleSnapshot:
    """Why lua/reserve.lua made none.

    Raises:
        StoreUnavailable: the clocks differ. Conflict: the hold has ended, or is another call's.
    """
    head = reply[0]
    if head == b"stale":
        return StaleSnapshot(int(reply[1]))
    if head == b"skew":
        off_s = (int(reply[1]) - request.now_ms) / 1000
        raise StoreUnavailable(f"this worker's clock is {off_s:.1f} s off the store's; at most 5 s are allowed")
    if head == b"resolved":
        raise Conflict(f"the hold {request.hold_id} is another call's, or has ended ({reply[1].decode()})")
    balances = tuple(
        [Balance(int(reply[i]), int(reply[i + 1]), _STATES[int(reply[i + 2])]) for i in range(5, len(reply), 3)]
    )
    account = int(reply[3]) if reply[3] else None
    return Refusal(RefusalCode(reply[2].decode()), account, int(reply[4]), balances)


def read_resolve(reply: bytes | list[Any]) -> Settlement:
    """What lua/resolve.lua did.

    Raises:
        InvalidInput: nothing; it names the field and the rule.
    """
    if not isinstance(reply, bytes):
        raise InvalidInput(reply[1].decode(), reply[2].decode())
    status, *numbers = reply.split()
    sequence, applied, delta_nano, overage_nano, *balances = map(int, numbers)
    return Settlement(
        _STATUSES[status],
        applied == 1,
        delta_nano,
        overage_nano,
        tuple(zip(balances[0::2], balances[1::2], strict=True)),
        sequence,
    )
