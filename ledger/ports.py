"""What the ledger needs of a database, and of the stream that it reads. Every adapter passes tests/contracts/ledger."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple, Protocol

from core.values import value
from ledger.model import Batch, CallRow, EventRow, Position

Bucket = Literal["hour", "day", "week", "month"]

#: What spend and calls can be grouped and filtered by, besides the type of a scope (``agent``, ``team``, …).
CHARGE_DIMENSIONS = ("provider", "service", "category", "meter", "model", "model_requested", "basis", "source")
CALL_DIMENSIONS = ("provider", "model", "model_requested", "state", "outcome", "kind", "refusal", "downgraded")


@value
class Interval:
    """Epoch milliseconds, the end exclusive."""

    start_ms: int
    end_ms: int


@value
class Filter:
    """A dimension, or a type of scope, that has one of these values (None: has none)."""

    dimension: str
    values: tuple[str | None, ...]


@value
class SpendAsk:
    """What was spent.

    group_by: dimensions or types of scopes; a chain without such a scope is in the group None.
    bucket: None: the whole interval in one. zone: whose days, weeks (from Monday) and months they are.
    """

    interval: Interval
    group_by: tuple[str, ...] = ()
    bucket: Bucket | None = None
    zone: str = "UTC"
    filters: tuple[Filter, ...] = ()


@value
class SpendRow:
    """A group in a bucket. bucket_ms: its start, epoch milliseconds; None: the interval has no buckets.

    cost_usd: what accounts were charged (effective cost and rounding). quantity: of tokens (or of another unit).
    """

    group: tuple[str | None, ...]
    bucket_ms: int | None
    cost_usd: Decimal
    list_cost_usd: Decimal
    quantity: Decimal


@value
class CallsRow:
    """A group of calls in a bucket. calls: that ended or were posted; refused, downgraded: how many.

    saved_nano: by downgrades; avoided_nano: the least that refused calls needed; unconfirmed_nano: posted for holds
    whose call's end is not known; latency_ms: sum over `timed` calls.
    """

    group: tuple[str | None, ...]
    bucket_ms: int | None
    calls: int
    refused: int
    downgraded: int
    failed: int
    cost_nano: int
    saved_nano: int
    avoided_nano: int
    unconfirmed_nano: int
    input_tokens: int
    output_tokens: int
    latency_ms: int
    timed: int


@value
class CallsAsk:
    """Single calls, newest first. before: identity and time of the last one of the page before."""

    interval: Interval
    filters: tuple[Filter, ...] = ()
    limit: int = 50
    before: tuple[int, str] | None = None


class PastCall(NamedTuple):
    """A row about a call, lean, since millions are asked for: as a tuple it is a short array between processes.

    start_ms: when the call came; the same as at_ms where that is not known. key: of the type of scope that was asked
    for; None: of all. needed_nano: the least that a refused call needed; 0 for others. The rest as in `CallRow`.
    """

    start_ms: int
    identity: str
    at_ms: int
    kind: str
    hold_id: str
    key: str | None
    model_requested: str | None
    model_served: str | None
    downgraded: bool
    posted_nano: int
    cost_nano: int
    held_nano: int
    needed_nano: int
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    refusal: str | None
    account_id: str | None


@value
class PastCallsAsk:
    """Calls in the order in which they came, oldest first.

    interval: of their ends. scope_type, scope_key: only those charged to such a scope; type None: all; key None: each
    key of the type. after: start and identity of the last one of the page before.
    """

    interval: Interval
    scope_type: str | None = None
    scope_key: str | None = None
    limit: int = 20_000
    after: tuple[int, str] | None = None


@value
class AccountPoint:
    """What was posted on an account in a quarter of an hour that begins at `slot_ms`."""

    account_id: str
    slot_ms: int
    posted_nano: int


@value
class StateChange:
    """An account changed its state: from and to by number (0 Active to 3 Stopped), at what spend, and why."""

    at_ms: int
    account_id: str
    was: int
    now: int
    spent_nano: int
    limit_nano: int
    cause: str
    why: str


@value
class Adjustment:
    """By how much a call's cost is to change, in nano-dollars, and what it then is."""

    call: CallRow
    cost_nano: int
    delta_nano: int
    source: str
    why: str


class LedgerStore(Protocol):
    """Where the ledger is kept.

    Failure policy: `append` adds all of a batch or nothing, and what is there already is not added again, so a batch
    can be repeated after any failure. Every method raises `LedgerUnavailable` if the database can't be reached.
    """

    def id(self) -> str:
        """The ledger's own id, the same for ever."""
        ...

    def position(self) -> Position:
        """The newest event in it."""
        ...

    def append(self, batch: Batch) -> int:
        """Add a batch; how many of its events were new."""
        ...

    def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """From cost records; unsorted."""
        ...

    def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """From the rows about calls; the groups are of `CALL_DIMENSIONS` or scopes; unsorted."""
        ...

    def call_list(self, ask: CallsAsk) -> list[CallRow]:
        """Single calls, newest first."""
        ...

    def past_calls(self, ask: PastCallsAsk) -> list[PastCall]:
        """Single calls, in the order in which they came."""
        ...

    def of_request(self, request_id: str) -> tuple[list[CallRow], list[EventRow]]:
        """All that is known of one request, oldest first."""
        ...

    def postings(self, account_ids: Sequence[str] | None, interval: Interval | None = None) -> list[AccountPoint]:
        """Sums by account and quarter of an hour, oldest first; None: of all accounts, of all time."""
        ...

    def state_changes(self, interval: Interval, account_ids: Sequence[str] | None, limit: int) -> list[StateChange]:
        """Newest first."""
        ...

    def events(self, after: Position) -> Iterator[EventRow]:
        """Every event after a position, in the order of their epochs and sequence."""
        ...

    def charges(
        self,
        interval: Interval,
        filters: Sequence[Filter],
        columns: Sequence[str],
        *,
        by: Literal["ChargePeriodStart", "x_RecordedAt"] = "ChargePeriodStart",
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Cost records, in pieces and in the order of `by`, whose interval it is: values of these columns of
        `CHARGE_COLUMNS`, with exact decimals and times in UTC without a zone. Filters are by type of scope, or by
        `CHARGE_DIMENSIONS`.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """Engine, version, number of rows by table, size in bytes, newest event's time: for people and metrics."""
        ...

    def compact(self, *, keep_events_from_ms: int | None, keep_calls_from_ms: int | None) -> None:
        """Merge what can be merged, and forget events and calls from before; cost records and sums stay."""
        ...

    def close(self) -> None:
        """Give the database free."""
        ...


class LedgerReader(Protocol):
    """The questions of `LedgerStore`, asked of the process that owns the ledger.

    Every method raises `LedgerUnavailable` if that process can't be reached.
    """

    async def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """As `LedgerStore.spend`."""
        ...

    async def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """As `LedgerStore.calls`."""
        ...

    async def call_list(self, ask: CallsAsk) -> list[CallRow]:
        """As `LedgerStore.call_list`."""
        ...

    async def past_calls(self, ask: PastCallsAsk) -> list[PastCall]:
        """As `LedgerStore.past_calls`."""
        ...

    async def of_request(self, request_id: str) -> tuple[list[CallRow], list[EventRow]]:
        """As `LedgerStore.of_request`."""
        ...

    async def postings(self, account_ids: Sequence[str] | None, interval: Interval | None = None) -> list[AccountPoint]:
        """As `LedgerStore.postings`."""
        ...

    async def state_changes(
        self, interval: Interval, account_ids: Sequence[str] | None, limit: int
    ) -> list[StateChange]:
        """As `LedgerStore.state_changes`."""
        ...

    async def export_to(self, path: str, kind: str, layout: str, interval: Interval, filters: Sequence[Filter]) -> int:
        """Write cost records into a file on the owner's machine (`ledger.export`); how many."""
        ...

    async def export_delta(self, table: str, start_ms: int) -> int:
        """Append cost records to a Delta Lake table (`ledger.delta`); how many."""
        ...

    async def adjust(self, adjustments: Sequence[Adjustment]) -> int:
        """Add adjustments of calls that the live state no longer knows; how many were new."""
        ...

    async def facts(self) -> dict[str, Any]:
        """As `LedgerStore.facts`, and `lag`: events of the live state that are not in the ledger yet."""
        ...
