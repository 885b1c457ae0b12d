"""The ledger in ClickHouse: for those who outgrow one machine.

Failure policy: nothing of a batch counts before all of it is there (`ledger.clickhouse_append`); a question is answered
from the batches that were committed when it was asked. A server that is away is `LedgerUnavailable`; one process
writes.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

import orjson

from core.errors import ConfigError
from ledger.clickhouse_append import CALL_FIELDS, EVENT_FIELDS, Appender
from ledger.clickhouse_connection import Connection, address_of
from ledger.clickhouse_sql import (
    conditions_on_calls,
    conditions_on_charges,
    past_calls_query,
    query_of,
    schema,
    sql,
)
from ledger.ids import ALL_TIME, around
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
from ledger.spans import DAY_MS, within

LAYOUT = 2
#: Columns that came later: their table, name and type.
_LATER = (("calls", "balances", "Nullable(String)"), ("positions", "merged_days", "Array(Int64)"))
_PAGE = 10_000
_TABLES = ("events", "calls", "charges", "spend_slots", "call_slots", "account_slots")
_MERGED = ("spend_slots", "call_slots", "account_slots")


class ClickHouseLedger:
    """A `LedgerStore` in the database that a URL names (`ledger.clickhouse_connection`); its tables are made.

    new_id: the ledger's id, if it is made now. timeout_s: of each call to the server.
    Methods may be called from several threads; writing is for one at a time.
    """

    def __init__(self, url: str, *, new_id: str, timeout_s: int = 60) -> None:
        self._server = Connection(address_of(url), timeout_s)
        self._appender = Appender(self._server)
        self._writing = threading.Lock()
        if not self._server.rows(f"EXISTS TABLE {_TABLES[-1]}")[0][0]:  # the last that is made
            for statement in schema():
                self._server.run(statement)
        else:
            self._widen()
        if not self._server.rows("SELECT id FROM ledger LIMIT 1"):
            self._server.insert("ledger", [orjson.dumps({"id": new_id, "layout": LAYOUT})])
        layout = self._server.rows("SELECT max(layout) FROM ledger")[0][0]
        if layout != LAYOUT:
            raise ConfigError(f"the ledger has layout {layout}; this version writes {LAYOUT}")

    def _widen(self) -> None:
        """Add the columns that tables of an earlier version lack."""
        for table, column, kind in _LATER:
            if column not in {row[0] for row in self._server.rows(f"DESCRIBE TABLE {table}")}:
                self._server.run(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {kind}")

    def id(self) -> str:
        """The ledger's own id."""
        return str(self._server.rows("SELECT min(id) FROM ledger")[0][0])

    def position(self) -> Position:
        """The newest event in it."""
        return self._appender.snapshot().position

    def append(self, batch: Batch) -> int:
        """Add a batch; how many of its events were new."""
        with self._writing:
            return self._appender.append(batch)

    def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """From cost records; unsorted."""
        groups = len(ask.group_by)
        return [SpendRow(tuple(row[:groups]), *row[groups:]) for row in self._summed(ask, of_calls=False)]

    def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """From the rows about calls; unsorted."""
        groups = len(ask.group_by)
        return [CallsRow(tuple(row[:groups]), *row[groups:]) for row in self._summed(ask, of_calls=True)]

    def _summed(self, ask: SpendAsk, *, of_calls: bool) -> list[Any]:
        at, table = self._appender.snapshot(), "call_slots" if of_calls else "spend_slots"
        bounds = f"SELECT min(slot_ms), max(slot_ms) + {DAY_MS} FROM {table} WHERE span_ms = {DAY_MS} AND {at.live()}"
        [(start_ms, end_ms)] = self._server.rows(bounds)
        query = query_of(within(ask, Interval(start_ms, end_ms)), at, of_calls=of_calls)
        return self._server.rows(query.text, query.parameters)

    def call_list(self, ask: CallsAsk) -> list[CallRow]:
        """Single calls, newest first."""
        parameters: dict[str, Any] = {"start": ask.interval.start_ms, "end": ask.interval.end_ms, "count": ask.limit}
        where = conditions_on_calls(ask.filters, parameters)
        if ask.before:
            parameters |= {"before_ms": ask.before[0], "before": ask.before[1]}
            where += " AND (at_ms, identity) < ({before_ms:Int64}, {before:String})"
        found = self._server.rows(
            f"SELECT {CALL_FIELDS} FROM calls WHERE at_ms >= {{start:Int64}} AND at_ms < {{end:Int64}} AND {where} "
            f"AND {self._live()} ORDER BY at_ms DESC, identity DESC LIMIT {{count:UInt32}}",
            parameters,
        )
        return [CallRow(*row) for row in found]

    def past_calls(self, ask: PastCallsAsk) -> list[PastCall]:
        """Single calls, in the order in which they came."""
        query = past_calls_query(ask, self._appender.snapshot())
        return [PastCall(*row) for row in self._server.rows(query.text, query.parameters)]

    def of_request(self, request_id: str) -> tuple[list[CallRow], list[EventRow]]:
        """All that is known of one request, oldest first."""
        near = around(request_id)
        found = self._of_request(request_id, near)
        return found if found[0] or found[1] or near == ALL_TIME else self._of_request(request_id, ALL_TIME)

    def _of_request(self, request_id: str, when: Interval) -> tuple[list[CallRow], list[EventRow]]:
        live = f"at_ms >= {when.start_ms} AND at_ms < {when.end_ms} AND {self._live()}"
        told = self._server.rows(
            f"SELECT hold_id FROM calls WHERE request_id = {{id:String}} AND {live} UNION DISTINCT "
            f"SELECT hold_id FROM events WHERE request_id = {{id:String}} AND {live}",
            {"id": request_id},
        )
        holds = {"holds": [row[0] for row in told if row[0] is not None]}
        if not holds["holds"]:
            return [], []
        # A webhook tells of the same hold under a name of its own.
        calls = self._server.rows(
            f"SELECT {CALL_FIELDS} FROM calls WHERE has({{holds:Array(String)}}, hold_id) AND {live} "
            "ORDER BY at_ms, batch, ordinal",
            holds,
        )
        events = self._server.rows(
            f"SELECT {EVENT_FIELDS} FROM events WHERE ifNull(has({{holds:Array(String)}}, hold_id), false) AND {live} "
            "ORDER BY era, sequence",
            holds,
        )
        return [CallRow(*row) for row in calls], [EventRow(*row) for row in events]

    def postings(self, account_ids: Sequence[str] | None, interval: Interval | None = None) -> list[AccountPoint]:
        """Sums by account and slot; None: of all accounts, of all time."""
        live = self._appender.snapshot().live_slots()
        parameters = _of_accounts(account_ids, interval or Interval(0, 2**62))
        found = self._server.rows(sql("postings").format(live_slots=live), parameters)
        return [AccountPoint(*row) for row in found]

    def state_changes(self, interval: Interval, account_ids: Sequence[str] | None, limit: int) -> list[StateChange]:
        """Newest first."""
        parameters = _of_accounts(account_ids, interval) | {"count": limit}
        return [StateChange(*row) for row in self._server.rows(sql("states").format(live=self._live()), parameters)]

    def events(self, after: Position) -> Iterator[EventRow]:
        """Every event after a position, in the order in which they were added."""
        eras = self._appender.eras()
        era, sequence = eras.get(after.epoch, len(eras) + 1) if after.epoch else 0, after.sequence
        while True:
            page = self._server.rows(
                f"SELECT {EVENT_FIELDS}, era FROM events "
                f"WHERE (era > {era} OR era = {era} AND sequence > {sequence}) AND {self._live()} "
                f"ORDER BY era, sequence LIMIT {_PAGE}"
            )
            if not page:
                return
            sequence, era = page[-1][3], page[-1][-1]
            yield from (EventRow(*row[:-1]) for row in page)

    def charges(
        self,
        interval: Interval,
        filters: Sequence[Filter],
        columns: Sequence[str],
        *,
        by: Literal["ChargePeriodStart", "x_RecordedAt"] = "ChargePeriodStart",
    ) -> Iterator[list[tuple[Any, ...]]]:
        """Cost records, in pieces, in the order of `by`."""
        parameters: dict[str, Any] = {"start": interval.start_ms, "end": interval.end_ms, "after": ""}
        where, live = conditions_on_charges(filters, parameters), self._live()
        names = ", ".join(f"`{name}`" for name in columns)
        at = f"toUnixTimestamp64Milli(`{by}`)"
        while True:
            page = self._server.rows(
                f"SELECT {names}, {at}, x_SourceRecordId FROM charges WHERE {live} AND {where} "
                f"AND ({at}, x_SourceRecordId) > ({{start:Int64}}, {{after:String}}) AND {at} < {{end:Int64}} "
                f"AND `{by}` >= fromUnixTimestamp64Milli({{start:Int64}}, 'UTC') "
                f"ORDER BY {at}, x_SourceRecordId LIMIT {_PAGE}",
                parameters,
            )
            if not page:
                return
            parameters["start"], parameters["after"] = page[-1][-2:]
            yield [tuple(map(_without_zone, row[:-2])) for row in page]

    def facts(self) -> dict[str, Any]:
        """Engine, version, rows by table, size in bytes, newest event's time."""
        at = self._appender.snapshot()
        rows = {}
        for table in _TABLES:
            live = at.live_slots() if table in _MERGED else at.live()
            rows[table] = self._server.rows(f"SELECT count() FROM {table} WHERE {live}")[0][0]
        newest = self._server.rows(f"SELECT max(at_ms) FROM events WHERE {at.live()}")[0][0]
        size = "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = currentDatabase() AND active"
        facts = {"engine": "clickhouse", "version": self._server.version, "rows": rows}
        return facts | {"bytes": self._server.rows(size)[0][0], "newestMs": newest or None}

    def compact(self, *, keep_events_from_ms: int | None, keep_calls_from_ms: int | None) -> None:
        """Merge sums, and forget events and calls from before; cost records and sums stay."""
        with self._writing:
            self._appender.compact()
            for table, from_ms in (("events", keep_events_from_ms), ("calls", keep_calls_from_ms)):
                if from_ms is not None:
                    kept = " AND type NOT IN ('terms', 'document')" if table == "events" else ""
                    self._server.run(f"DELETE FROM {table} WHERE at_ms < {from_ms}{kept}")

    def close(self) -> None:
        """Let go of the connections."""
        self._server.close()

    def _live(self) -> str:
        return self._appender.snapshot().live()


def _without_zone(cell: Any) -> Any:
    return cell.replace(tzinfo=None) if isinstance(cell, datetime) else cell


def _of_accounts(account_ids: Sequence[str] | None, interval: Interval) -> dict[str, Any]:
    bounds = {"start_ms": interval.start_ms, "end_ms": interval.end_ms}
    return bounds | {"all": account_ids is None, "ids": list(account_ids or ())}
