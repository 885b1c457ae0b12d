"""Rows of a batch into DuckDB's tables, within a transaction that the caller has begun.

Rows are turned into columns that DuckDB reads in place (`ledger.arrow`).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from hashlib import blake2b
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import duckdb
import orjson

from ledger.arrow import table
from ledger.duckdb_sql import sql, template_columns
from ledger.model import CallRow, Charge, ChargeGroup, EventRow, Posting
from ledger.scopes import keys_of
from ledger.spans import SLOT_MS, SPANS_MS

#: Columns as they come to DuckDB. Amounts are whole pico-dollars.
EVENTS = {
    "identity": "VARCHAR",
    "event_id": "VARCHAR",
    "epoch": "VARCHAR",
    "sequence": "BIGINT",
    "at_ms": "BIGINT",
    "type": "VARCHAR",
    "hold_id": "VARCHAR",
    "request_id": "VARCHAR",
    "fields": "VARCHAR",
}
_CHARGES = {
    "kind": "INTEGER",
    "chain": "INTEGER",
    "identity": "VARCHAR",
    "number": "INTEGER",
    "hold_id": "VARCHAR",
    "request_id": "VARCHAR",
    "start_ms": "BIGINT",
    "end_ms": "BIGINT",
    "recorded_ms": "BIGINT",
    "cost": "BIGINT",
    "rounding": "BIGINT",
    "quantity": "BIGINT",
    "unit_price": "BIGINT",
}
_TYPES: dict[Any, str] = {int: "BIGINT", int | None: "BIGINT", bool: "BOOLEAN", list[str]: "VARCHAR[]"}
_CALLS = {f.name: _TYPES.get(f.type, "VARCHAR") for f in fields(CallRow)}
_event = attrgetter(*EVENTS)
_call = attrgetter(*_CALLS)
_state = itemgetter("account", "from", "to", "spent_nano", "limit_nano", "cause", "why")
_REMEMBERED = 100_000
_SOURCE = "new_rows"


class Templates:
    """What many cost records share, kept once, under a number.

    Of the newest ones the numbers are remembered. What a transaction adds counts only after `committed`.
    """

    def __init__(self, table: str, columns: dict[str, str], spool: Path) -> None:
        self._table, self._columns, self._file = table, columns, spool / f"{table}.ndjson"
        self._known: OrderedDict[str, int] = OrderedDict()
        self._fresh: dict[str, int] = {}

    def ids(self, db: duckdb.DuckDBPyConnection, templates: Iterable[tuple[Charge, dict[str, Any]]]) -> dict[int, int]:
        """The numbers of templates (and what else a new row is to hold), by the identity of their objects."""
        digests, rows = {}, {}
        for template, extra in templates:
            if id(template) not in digests:
                text = orjson.dumps(template, option=orjson.OPT_SORT_KEYS)
                digests[id(template)] = digest = blake2b(text, digest_size=16).hexdigest()
                rows[digest] = template | extra | {"digest": digest}
        self._fresh = {}
        missing = [digest for digest in rows if digest not in self._known]
        if missing:
            found = db.execute(
                f"SELECT digest, id FROM {self._table} WHERE digest IN (SELECT unnest(?::VARCHAR[]))", [missing]
            ).fetchall()
            self._fresh = dict(found)
            self._add(db, [rows[digest] for digest in missing if digest not in self._fresh])
        return {key: self._fresh.get(digest) or self._known[digest] for key, digest in digests.items()}

    def committed(self) -> None:
        """What was added stays."""
        self._known.update(self._fresh)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _add(self, db: duckdb.DuckDBPyConnection, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        [[last]] = db.execute(f"SELECT coalesce(max(id), 0) FROM {self._table}").fetchall()
        for number, row in enumerate(rows, last + 1):
            row["id"] = self._fresh[row["digest"]] = number
        self._file.write_bytes(b"\n".join(map(orjson.dumps, rows)))
        db.execute(
            f"INSERT INTO {self._table} BY NAME "
            f"SELECT * FROM read_json('{self._file}', format='newline_delimited', columns={self._columns})"
        )


class Appender:
    """Adds rows. spool: a folder of its own for staged files. known_paths: those that are in the table of paths."""

    def __init__(self, spool: Path, known_paths: set[str]) -> None:
        self._spool = spool
        self._known_paths, self._new_paths = known_paths, set[str]()
        common = {"id": "INTEGER", "digest": "VARCHAR"}
        self._kinds = Templates("charge_kinds", common | template_columns(of_chains=False), spool)
        chains = common | {"path": "VARCHAR"} | template_columns(of_chains=True)
        self._chains = Templates("charge_chains", chains, spool)

    def add_events(self, db: duckdb.DuckDBPyConnection, events: Sequence[EventRow], era: int) -> None:
        """Events of an era."""
        if events:
            with _source(db, EVENTS, map(_event, events)) as source:
                db.execute(f"INSERT INTO events BY NAME SELECT *, {era} AS era FROM {source}")
        states = [e for e in events if e.type == "state"]
        if states:
            rows = [(era, e.sequence, e.at_ms, *_state(orjson.loads(e.fields))) for e in states]
            db.executemany("INSERT INTO states VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_postings(self, db: duckdb.DuckDBPyConnection, postings: Iterable[Posting]) -> None:
        """Their sums by account and slot."""
        sums: dict[tuple[int, str], int] = {}
        for posting in postings:
            key = (posting.at_ms // SLOT_MS * SLOT_MS, posting.account_id)
            sums[key] = sums.get(key, 0) + posting.posted_nano
        if sums:
            db.execute(
                "INSERT INTO account_slots SELECT unnest(?::BIGINT[]), unnest(?::VARCHAR[]), unnest(?::BIGINT[])",
                [[k[0] for k in sums], [k[1] for k in sums], list(sums.values())],
            )

    def add_calls(self, db: duckdb.DuckDBPyConnection, calls: Sequence[CallRow]) -> None:
        """Calls and their sums."""
        if not calls:
            return
        self._add_paths(db, {c.path for c in calls})
        with _source(db, _CALLS, map(_call, calls)) as source:
            db.execute(f"INSERT INTO calls BY NAME SELECT * FROM {source}")
            db.execute(sql("add_call_slots").format(source=source, spans=list(SPANS_MS)))

    def add_charges(self, db: duckdb.DuckDBPyConnection, groups: Sequence[ChargeGroup]) -> None:
        """Cost records and their sums."""
        if not groups:
            return
        self._add_paths(db, {g.path for g in groups})
        named = {id(item.kind): item.kind for g in groups for item in g.items}
        kinds = self._kinds.ids(db, ((kind, {}) for kind in named.values()))
        chains = self._chains.ids(db, ((g.chain, {"path": g.path}) for g in groups))
        rows = (
            (
                kinds[id(item.kind)],
                chains[id(g.chain)],
                g.identity,
                number,
                g.hold_id,
                g.request_id,
                g.start_ms,
                g.end_ms,
                g.recorded_ms,
                item.cost_pico,
                item.rounding_pico,
                item.quantity,
                item.unit_pico,
            )
            for g in groups
            for number, item in enumerate(g.items)
        )
        with _source(db, _CHARGES, rows) as source:
            source = sql("new_charges").format(source=source)
            db.execute(f"INSERT INTO charge_rows BY NAME SELECT * FROM {source}")
            db.execute(sql("add_spend_slots").format(source=source, spans=list(SPANS_MS)))

    def committed(self) -> None:
        """The transaction is done."""
        self._known_paths |= self._new_paths
        self._kinds.committed()
        self._chains.committed()

    def rolled_back(self) -> None:
        """The transaction left nothing."""
        self._new_paths = set()

    def _add_paths(self, db: duckdb.DuckDBPyConnection, paths: set[str]) -> None:
        new = paths - self._known_paths - self._new_paths
        keys = [(path, kind, key) for path in new for kind, key in keys_of(path)]
        if keys:
            columns = zip(*keys, strict=True)
            db.execute(sql("add_paths"), dict(zip(("paths", "types", "keys"), columns, strict=True)))
        self._new_paths |= new


@contextmanager
def _source(db: duckdb.DuckDBPyConnection, types: dict[str, str], rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Rows as a table that SQL can name."""
    db.register(_SOURCE, table(types, list(zip(*rows, strict=True))))
    try:
        yield _SOURCE
    finally:
        db.unregister(_SOURCE)
