"""The same ledger of millions of records in ClickHouse: one batch that was really appended, copied over 90 days."""

from collections.abc import Callable

from bench.ledger.fill import DAYS, first_batch
from ledger.clickhouse_sql import sql
from ledger.clickhouse_store import ClickHouseLedger
from ledger.spans import SPANS_MS
from tests.ledger.events import Stream

_DAY_MS = 86_400_000
#: Copies of the batch by one statement.
_AT_ONCE = 25


def fill_clickhouse(store: ClickHouseLedger, records: int, tell: Callable[[int], None]) -> None:
    """So many cost records, and the calls and sums that go with them; raw events are those of the first batch."""
    here, server = first_batch(store, Stream()), store._server
    copies = max(1, records // here)
    later = f"n * {DAYS * _DAY_MS // copies}"
    times = {"charges": ("ChargePeriodStart", "ChargePeriodEnd"), "calls": ("at_ms", "started_ms")}
    ids = {
        "charges": ("x_SourceRecordId", "x_HoldId", "x_AttemptId", "x_RequestId"),
        "calls": ("identity", "hold_id", "request_id"),
    }
    for table in times:
        server.run(f"CREATE TABLE seed_{table} ENGINE = Memory AS SELECT * FROM {table}")
    for start in range(1, copies, _AT_ONCE):
        copy = f"(SELECT toInt64(number) AS n FROM numbers({start}, {min(_AT_ONCE, copies - start)})) AS copy"
        for table in times:
            move = "addMilliseconds({0}, {1}) AS {0}" if table == "charges" else "{0} + {1} AS {0}"
            moved = [move.format(f"`{name}`", later) for name in times[table]]
            moved += [f"concat(`{name}`, ':', toString(n)) AS `{name}`" for name in ids[table]]
            rows = f"SELECT * EXCEPT n REPLACE ({', '.join(moved)}) FROM seed_{table} CROSS JOIN {copy}"
            server.run(f"INSERT INTO {table} {rows}")
        tell(start * here)
    [[batch]] = server.rows("SELECT max(batch) FROM positions")
    for table in ("spend_slots", "call_slots"):
        server.run(f"TRUNCATE TABLE {table}")
        server.run(sql(f"add_{table}").format(batch=batch, spans=list(SPANS_MS), from_ms=0, to_ms=2**42))
