"""A ledger of millions of records: one batch that was really appended, copied over 90 days inside the database."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

from bench.ledger.traffic import AGENTS, batches
from ledger.duckdb_sql import sql
from ledger.duckdb_store import DuckDbLedger
from ledger.records import batch_of
from ledger.spans import DAY_MS, SPANS_MS
from tests.ledger.events import START_MS, Stream

DAYS = 90
#: Each agent's account is Active, Warned, Degraded and Stopped once a day.
CHANGES_OF_A_DAY = 4 * AGENTS
CHANGES = DAYS * CHANGES_OF_A_DAY
#: How the name of an agent's account begins.
ACCOUNT = "agents:2026-11:"
_EVENTS = 10_000
_AT_ONCE = 500


def first_batch(store: Any, stream: Stream) -> int:
    """Append one batch of calls; how many cost records it has."""
    (events,) = batches(stream, _EVENTS, _EVENTS)
    batch = batch_of(events, [], store.position(), stream.epoch, stream.now_ms)
    store.append(batch)
    return sum(len(group.items) for group in batch.charges)


def fill(path: Path, records: int, tell: Callable[[int], None], start_ms: int = START_MS) -> DuckDbLedger:
    """A ledger with so many cost records, and the calls, sums and changes of state that go with them. Months of
    billing stay those of the first batch, and so do raw events, which are kept for a shorter time.

    start_ms: when the first call was made; the last is `DAYS` later.
    """
    stream = Stream(now_ms=start_ms)
    store = DuckDbLedger(path, new_id="ldg_bench", memory_mib=4096)
    here = first_batch(store, stream)
    store.close()
    copies = max(1, records // here)
    step_ms = DAYS * DAY_MS // copies
    with duckdb.connect(str(path), config={"memory_limit": "8GiB"}) as db:
        for table in ("charge_rows", "calls"):
            db.execute(f"CREATE TABLE seed_{table} AS SELECT * FROM {table}")
            db.execute(f"DELETE FROM {table}")
        for table in ("spend_slots", "call_slots", "account_slots"):
            db.execute(f"DELETE FROM {table}")
        for start in range(0, copies, _AT_ONCE):
            some = f"range({start}, {min(start + _AT_ONCE, copies)}) AS copy(n)"
            for table, times in (("charge_rows", ("start_ms", "end_ms")), ("calls", ("at_ms", "started_ms"))):
                moved = ", ".join(f"{name} + n * {step_ms} AS {name}" for name in times)
                began = "start_ms" if table == "charge_rows" else "started_ms"
                digits = f"format('{{:012x}}85be', {began} + n * {step_ms}) || left(md5(hold_id || n), 16)"
                ids = f"'hld_' || {digits} AS hold_id, 'req_' || {digits} AS request_id"
                query = f"identity || ':' || n AS identity, {ids}, {moved}"
                db.execute(
                    f"INSERT INTO {table} SELECT seed.* REPLACE ({query}) FROM {some}, seed_{table} AS seed ORDER BY n"
                )
            tell(min(start + _AT_ONCE, copies) * here)
        db.execute(sql("add_spend_slots").format(source="charge_rows", spans=list(SPANS_MS)))
        db.execute(sql("add_call_slots").format(source="calls", spans=list(SPANS_MS)))
        db.execute(
            "INSERT INTO account_slots SELECT at_ms // 900000 * 900000, "
            "'agents:' || strftime(epoch_ms(at_ms), '%Y-%m') || ':' || agent, sum(posted_nano) FROM calls GROUP BY ALL"
        )
        db.execute(
            f"INSERT INTO states SELECT 1, n, {start_ms} + n * {DAY_MS // CHANGES_OF_A_DAY}, "
            f"'{ACCOUNT}agent' || n % {AGENTS}, n // {AGENTS} % 4, (n // {AGENTS} + 1) % 4, n, 1000000000, 'hld_0', "
            f"'spend' FROM range({CHANGES}) AS t(n)"
        )
        db.execute("UPDATE ledger SET unmerged_ms = 0")
        for table in ("seed_charge_rows", "seed_calls"):
            db.execute(f"DROP TABLE {table}")
        db.execute("CHECKPOINT")
    return opened(path)


def opened(path: Path) -> DuckDbLedger:
    """A ledger with the memory that it has in the product."""
    return DuckDbLedger(path, new_id="ldg_bench", memory_mib=1024)
