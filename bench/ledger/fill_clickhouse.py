"""The same ledger of millions of records in ClickHouse: one batch that was really appended, copied over 90 days."""

from collections.abc import Callable

from bench.ledger.fill import ACCOUNT, CHANGES, CHANGES_OF_A_DAY, DAYS, first_batch
from bench.ledger.traffic import AGENTS
from ledger.clickhouse_sql import sql
from ledger.clickhouse_store import ClickHouseLedger
from ledger.spans import DAY_MS, SPANS_MS
from tests.ledger.events import START_MS, Stream

#: Copies of the batch by one statement: a server gives one up after a minute.
_AT_ONCE = 25


def fill_clickhouse(store: ClickHouseLedger, records: int, tell: Callable[[int], None]) -> None:
    """So many cost records, and the calls, sums and changes of state that go with them; raw events are those of the
    first batch.
    """
    here, server = first_batch(store, Stream()), store._server
    copies = max(1, records // here)
    later = f"n * {DAYS * DAY_MS // copies}"
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
    _sum(store)


def _sum(store: ClickHouseLedger) -> None:
    """The sums, a day at a time, and the changes of state."""
    server = store._server
    [[batch]] = server.rows("SELECT max(batch) FROM positions")
    for table in ("seed_charges", "seed_calls"):
        server.run(f"DROP TABLE {table}")
    for table in ("spend_slots", "call_slots", "account_slots"):
        server.run(f"TRUNCATE TABLE {table}")
    for day in range(-1, DAYS + 1):
        from_ms = START_MS // DAY_MS * DAY_MS + day * DAY_MS
        of_day = {"from_ms": from_ms, "to_ms": from_ms + DAY_MS - 1}
        for table in ("spend_slots", "call_slots"):
            server.run(sql(f"add_{table}").format(batch=batch, spans=list(SPANS_MS), **of_day))
        server.run(
            "INSERT INTO account_slots "
            f"SELECT {batch}, false, intDiv(at_ms, 900000) * 900000, concat('agents:', "
            "formatDateTime(fromUnixTimestamp64Milli(at_ms, 'UTC'), '%Y-%m'), ':', agent), sum(posted_nano) "
            f"FROM calls WHERE at_ms BETWEEN {of_day['from_ms']} AND {of_day['to_ms']} GROUP BY ALL"
        )
    step_ms = DAY_MS // CHANGES_OF_A_DAY
    server.run(
        f"INSERT INTO states SELECT {batch}, 1, number, {START_MS} + number * {step_ms}, "
        f"concat('{ACCOUNT}agent', toString(number % {AGENTS})), intDiv(number, {AGENTS}) % 4, "
        f"intDiv(number + {AGENTS}, {AGENTS}) % 4, number, 1000000000, 'hld_0', 'spend' FROM numbers({CHANGES})"
    )
