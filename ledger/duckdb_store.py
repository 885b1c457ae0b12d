"""The ledger in DuckDB, in a file of one process: the embedded engine.

Failure policy: a batch is one transaction together with the position that it leads to; after a crash at any moment the
file opens with the batch or without it. One process owns the file; another is told so (`ConfigError`).
"""

import contextlib
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import duckdb

from core.errors import ConfigError
from ledger.duckdb_append import EVENTS, Appender
from ledger.duckdb_sql import charge_queries, conditions_on_calls, past_calls, query_of, schema, sql
from ledger.errors import LedgerUnavailable
from ledger.ids import ALL_TIME, around, earliest_ms
from ledger.model import Batch, CallRow, EventRow, Position
from ledger.ports import (
    AccountPoint,
    CallsAsk,
    CallsRow,
    Filter,
    Interval,
    PastCall,
    PastCallsAsk,
    SpendAsk,
    SpendRow,
    StateChange,
)
from ledger.scopes import UNSUMMED
from ledger.spans import DAY_MS, within

LAYOUT = 2
_PAGE = 10_000
_FIRST_LOOK_MS = 6 * 3_600_000
_NEVER_MS = 2**62
_CALL_FIELDS = ", ".join(f.name for f in fields(CallRow))
_EVENT_FIELDS = ", ".join(EVENTS)


class DuckDbLedger:
    """A `LedgerStore` in the file `path`.

    new_id: the ledger's id, if it is made now. memory_mib: what DuckDB may use.
    Methods may be called from several threads; writing is for one at a time.
    """

    def __init__(self, path: Path, *, new_id: str, memory_mib: int = 1024) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A checkpoint of every batch, which is what DuckDB does to large ones by default, would triple its price.
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_mib}MiB",
            "threads": 2,
            "checkpoint_threshold": "256MiB",
            # A page of calls is read from few rows, found by time; to fetch them one by one takes four times as long.
            "late_materialization_max_rows": 0,
        }
        try:
            self._db = duckdb.connect(str(path), config=config)
        except duckdb.IOException as error:
            raise ConfigError(f"the ledger {path} can't be opened; does another process own it? {error}") from None
        self._path = path
        self._spool = tempfile.TemporaryDirectory(prefix="spool-", dir=path.parent)
        self._writing = threading.Lock()
        self._make(new_id)
        known_paths = {row[0] for row in self._rows("SELECT DISTINCT path FROM paths")}
        self._appender = Appender(Path(self._spool.name), known_paths)

    def _make(self, new_id: str) -> None:
        self._db.execute(schema())
        found = self._rows("SELECT layout FROM ledger")
        if not found:
            self._db.execute("INSERT INTO ledger VALUES (?, ?, '', 0, '', '', ?)", [new_id, LAYOUT, _NEVER_MS])
        elif found[0][0] != LAYOUT:
            raise ConfigError(f"the ledger {self._path} has layout {found[0][0]}; this version writes {LAYOUT}")

    def id(self) -> str:
        """The ledger's own id."""
        found: str = self._rows("SELECT id FROM ledger")[0][0]
        return found

    def position(self) -> Position:
        """The newest event in it."""
        return Position(*self._rows("SELECT epoch, sequence, event_id, refusal_id FROM ledger")[0])

    def append(self, batch: Batch) -> int:
        """Add a batch in one transaction; how many of its events were new."""
        with self._writing, self._available():
            era = self._era(batch.position.epoch)
            known = self._known(batch, era)
            if known:
                batch = _without(batch, known)
            try:
                with _transaction(self._db) as db:
                    self._add(db, batch, era)
            except BaseException:
                self._appender.rolled_back()
                raise
            self._appender.committed()
            return len(batch.events)

    def _add(self, db: duckdb.DuckDBPyConnection, batch: Batch, era: int) -> None:
        p, add = batch.position, self._appender
        if batch.events:
            db.execute(
                "INSERT INTO eras SELECT $epoch, $era WHERE $epoch NOT IN (SELECT epoch FROM eras)",
                {"epoch": p.epoch, "era": era},
            )
        add.add_events(db, batch.events, era)
        add.add_postings(db, batch.postings)
        add.add_calls(db, batch.calls)
        add.add_charges(db, batch.charges)
        times_ms = [group.start_ms for group in batch.charges] + [call.at_ms for call in batch.calls]
        if times_ms:
            first_ms = min(times_ms) // DAY_MS * DAY_MS
            db.execute("UPDATE ledger SET unmerged_ms = least(unmerged_ms, ?)", [first_ms])
        if not batch.stays:
            db.execute(
                "UPDATE ledger SET epoch = ?, sequence = ?, event_id = ?, refusal_id = ?",
                [p.epoch, p.sequence, p.event_id, p.refusal_id],
            )

    def _era(self, epoch: str) -> int:
        """The number of an epoch, in the order in which they came."""
        found = dict(self._rows("SELECT epoch, era FROM eras"))
        return found.get(epoch) or len(found) + 1

    def _known(self, batch: Batch, era: int) -> set[str]:
        """Identities of events that are in the ledger already: after a rebuild, or if a batch is repeated."""
        known: set[str] = set()
        # Nothing was rebuilt before the end of the first epoch, so what follows the position there is new.
        follows = era == 1 and bool(batch.events) and batch.events[0].sequence > self.position().sequence
        refused = [c for c in batch.calls if c.kind == "refusal"]
        told = [] if follows else batch.events
        for table, identities, from_ms in (
            ("events", [e.identity for e in told], min(map(earliest_ms, told), default=0)),
            ("calls", [c.identity for c in refused], min((c.at_ms for c in refused), default=0)),
        ):
            if identities:
                found = self._rows(
                    f"SELECT identity FROM {table} WHERE at_ms >= ? AND identity IN (SELECT unnest(?::VARCHAR[]))",
                    [from_ms, identities],
                )
                known.update(row[0] for row in found)
        return known

    def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """From cost records; unsorted."""
        groups = len(ask.group_by)
        return [SpendRow(tuple(row[:groups]), *row[groups:]) for row in self._summed(ask, of_calls=False)]

    def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """From the rows about calls; unsorted."""
        groups = len(ask.group_by)
        return [CallsRow(tuple(row[:groups]), *row[groups:]) for row in self._summed(ask, of_calls=True)]

    def _summed(self, ask: SpendAsk, *, of_calls: bool) -> list[Any]:
        table = "call_slots" if of_calls else "spend_slots"
        bounds = f"SELECT min(slot_ms), max(slot_ms) + {DAY_MS} FROM {table} WHERE span_ms = {DAY_MS}"
        with self._available(), self._db.cursor() as cursor, _transaction(cursor) as db:
            [(start_ms, end_ms)] = db.execute(bounds).fetchall()
            known = Interval(start_ms or 0, end_ms or 0)
            query = query_of(within(ask, known), of_calls=of_calls, unsummed=UNSUMMED)
            return db.execute(query.text, query.parameters).fetchall()

    def call_list(self, ask: CallsAsk) -> list[CallRow]:
        """Single calls, newest first: of the newest hours, then of ever longer times before, until it is enough."""
        where, parameters = conditions_on_calls(ask.filters)
        end_ms, found = ask.interval.end_ms, list[Any]()
        if ask.before:
            parameters |= {"before_ms": ask.before[0], "before": ask.before[1]}
            where += " AND (at_ms, identity) < ($before_ms, $before)"
            end_ms = min(end_ms, ask.before[0] + 1)
        query = (
            f"SELECT {_CALL_FIELDS} FROM calls WHERE at_ms >= $start_ms AND at_ms < $end_ms AND {where} "
            "ORDER BY at_ms DESC, identity DESC LIMIT $count"
        )
        with self._available(), self._db.cursor() as cursor, _transaction(cursor) as db:
            [(newest_ms,)] = db.execute("SELECT max(at_ms) FROM calls").fetchall()
            end_ms, length_ms = min(end_ms, (newest_ms or 0) + 1), _FIRST_LOOK_MS
            while len(found) < ask.limit and end_ms > ask.interval.start_ms:
                start_ms = max(ask.interval.start_ms, end_ms - length_ms)
                bounds = {"start_ms": start_ms, "end_ms": end_ms, "count": ask.limit - len(found)}
                found += db.execute(query, parameters | bounds).fetchall()
                end_ms, length_ms = start_ms, 8 * length_ms
        return [CallRow(*row) for row in found]

    def past_calls(self, ask: PastCallsAsk) -> list[PastCall]:
        """Single calls, in the order in which they came."""
        return [PastCall(*row) for row in self._rows(*past_calls(ask))]

    def of_request(self, request_id: str) -> tuple[list[CallRow], list[EventRow]]:
        """All that is known of one request, oldest first."""
        near = around(request_id)
        found = self._of_request(request_id, near)
        return found if found[0] or found[1] or near == ALL_TIME else self._of_request(request_id, ALL_TIME)

    def _of_request(self, request_id: str, when: Interval) -> tuple[list[CallRow], list[EventRow]]:
        near = "at_ms >= $start AND at_ms < $end"
        bounds = {"start": when.start_ms, "end": when.end_ms}
        told = self._rows(
            f"SELECT hold_id FROM calls WHERE {near} AND request_id = $id "
            f"UNION SELECT hold_id FROM events WHERE {near} AND request_id = $id",
            bounds | {"id": request_id},
        )
        if not told:
            return [], []
        # A webhook tells of the same hold under a name of its own.
        known = bounds | {"holds": [row[0] for row in told]}
        mine = f"{near} AND hold_id IN (SELECT unnest($holds::VARCHAR[]))"
        calls = self._rows(f"SELECT {_CALL_FIELDS} FROM calls WHERE {mine} ORDER BY at_ms, rowid", known)
        events = self._rows(f"SELECT {_EVENT_FIELDS} FROM events WHERE {mine} ORDER BY era, sequence", known)
        return [CallRow(*row) for row in calls], [EventRow(*row) for row in events]

    def postings(self, account_ids: Sequence[str] | None, interval: Interval | None = None) -> list[AccountPoint]:
        """Sums by account and slot; None: of all accounts, of all time."""
        interval = interval or Interval(0, 2**62)
        found = self._rows(
            "SELECT account_id, slot_ms, sum(posted_nano)::BIGINT FROM account_slots "
            "WHERE slot_ms >= $start AND slot_ms < $end AND ($all OR list_contains($ids::VARCHAR[], account_id)) "
            "GROUP BY ALL ORDER BY slot_ms",
            {
                "start": interval.start_ms,
                "end": interval.end_ms,
                "all": account_ids is None,
                "ids": list(account_ids or ()),
            },
        )
        return [AccountPoint(*row) for row in found]

    def state_changes(self, interval: Interval, account_ids: Sequence[str] | None, limit: int) -> list[StateChange]:
        """Newest first."""
        found = self._rows(
            sql("states"),
            {
                "start": interval.start_ms,
                "end": interval.end_ms,
                "all": account_ids is None,
                "ids": list(account_ids or ()),
                "count": limit,
            },
        )
        return [StateChange(*row) for row in found]

    def events(self, after: Position) -> Iterator[EventRow]:
        """Every event after a position, in the order in which they were added."""
        era, sequence = self._era(after.epoch) if after.epoch else 0, after.sequence
        while True:
            page = self._rows(
                f"SELECT {_EVENT_FIELDS}, era FROM events WHERE (era, sequence) > (?, ?) "
                f"ORDER BY era, sequence LIMIT {_PAGE}",
                [era, sequence],
            )
            if not page:
                return
            sequence, era = page[-1][3], page[-1][-1]
            yield from (EventRow(*row[:-1]) for row in page)

    def facts(self) -> dict[str, Any]:
        """Engine, version, rows by table, size in bytes, newest event's time."""
        tables = ("events", "calls", "charge_rows", "spend_slots", "call_slots", "account_slots")
        rows = {t: self._rows(f"SELECT count(*) FROM {t}")[0][0] for t in tables}
        newest = self._rows("SELECT max(at_ms) FROM events")[0][0]
        size = self._path.stat().st_size
        return {"engine": "duckdb", "version": duckdb.__version__, "rows": rows, "bytes": size, "newestMs": newest}

    def compact(self, *, keep_events_from_ms: int | None, keep_calls_from_ms: int | None) -> None:
        """Merge sums, and forget events and calls from before; cost records and sums stay."""
        with self._writing:
            with _transaction(self._db) as db:
                [(from_ms,)] = db.execute("SELECT unmerged_ms FROM ledger").fetchall()
                for name in ("compact_spend", "compact_calls", "compact_accounts"):
                    db.execute(sql(name).format(from_ms=from_ms))
                db.execute("UPDATE ledger SET unmerged_ms = ?", [_NEVER_MS])
            for table, from_ms in (("events", keep_events_from_ms), ("calls", keep_calls_from_ms)):
                if from_ms is not None:
                    kept = " AND type NOT IN ('terms', 'document')" if table == "events" else ""
                    self._db.execute(f"DELETE FROM {table} WHERE at_ms < ?{kept}", [from_ms])
            with contextlib.suppress(duckdb.TransactionException):  # somebody reads: DuckDB does it by itself later
                self._db.execute("CHECKPOINT")

    def charges(
        self,
        interval: Interval,
        filters: Sequence[Filter],
        columns: Sequence[str],
        *,
        by: Literal["ChargePeriodStart", "x_RecordedAt"] = "ChargePeriodStart",
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Cost records, in pieces, in the order of `by`."""
        ask = charge_queries(filters, columns, by)
        interval_ms = {"start_ms": interval.start_ms, "end_ms": interval.end_ms}
        bounds = deque(self._rows(ask.counts, ask.parameters | interval_ms | {"count": _PAGE}))
        at = ask.parameters | {"start_ms": interval.start_ms, "after": "", "count": _PAGE}
        given = 0
        while True:
            while bounds and bounds[0][1] < given + _PAGE:
                bounds.popleft()
            at["until_ms"] = bounds[0][0] if bounds else interval.end_ms
            page = self._rows(ask.page, at)
            if page:
                given += len(page)
                at["start_ms"], at["after"] = page[-1][-2:]
                yield [row[:-2] for row in page]
            if len(page) < _PAGE:
                return

    def close(self) -> None:
        """Give the file free."""
        self._db.close()
        self._spool.cleanup()

    def _rows(self, query: str, parameters: Sequence[Any] | dict[str, Any] | None = None) -> list[Any]:
        with self._available(), self._db.cursor() as cursor:  # one per thread
            return cursor.execute(query, parameters).fetchall()

    @contextlib.contextmanager
    def _available(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.ConnectionException, duckdb.IOException, duckdb.OutOfMemoryException) as error:
            raise LedgerUnavailable(f"the ledger {self._path} can't be used: {error}") from error


def _without(batch: Batch, known: set[str]) -> Batch:
    """The batch less what comes of these events."""
    return replace(
        batch,
        events=[e for e in batch.events if e.identity not in known],
        postings=[p for p in batch.postings if p.identity not in known],
        calls=[c for c in batch.calls if c.identity not in known],
        charges=[c for c in batch.charges if c.identity not in known],
    )


@contextlib.contextmanager
def _transaction(db: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    db.execute("BEGIN")
    try:
        yield db
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
