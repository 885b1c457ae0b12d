"""Batches into ClickHouse, which has no transactions.

1. An attempt takes a number that no attempt had before; all its rows carry it.
2. Events and calls are inserted; if the ledger has some of them already, the attempt is given up, and another one
   begins without these.
3. The other rows follow, then sums, each reckoned from this attempt's rows alone.
4. A row in `positions` commits the attempt: only then does anything of it count. It also says which numbers before it
   were given up for good.

Failure policy: an attempt that breaks off leaves rows that never count, also if they arrive later; the next one goes by
another number. One process writes to a ledger at a time.
"""

import random
from collections.abc import Sequence
from dataclasses import fields, replace

import orjson

from ledger.charges import records_of
from ledger.clickhouse_connection import Connection, with_columns
from ledger.clickhouse_sql import Snapshot, sql
from ledger.ids import earliest_ms
from ledger.model import Batch, CallRow, ChargeGroup, EventRow, Position, Posting
from ledger.spans import DAY_MS, SLOT_MS, SPANS_MS

#: An attempt after one that may have broken off takes a number as far as this ahead, by chance: not that one's.
_JUMP = 2**32
_NEVER_MS = 2**62
_FACTS = ("events", "states", "calls", "charges")
_SUMS = ("spend_slots", "call_slots", "account_slots")
EVENT_FIELDS = ", ".join(f.name for f in fields(EventRow))
CALL_FIELDS = ", ".join(f.name for f in fields(CallRow))


class Appender:
    """Adds batches. One at a time."""

    def __init__(self, connection: Connection) -> None:
        self._to = connection
        self._number = 0  # of the last attempt, if it was committed

    def snapshot(self) -> Snapshot:
        """What counts now."""
        [row] = self._to.rows(sql("snapshot"))
        batch, merged_to, days, *position, gaps = row
        return Snapshot(batch, merged_to, tuple(days), Position(*position), tuple(map(tuple, gaps)))

    def append(self, batch: Batch) -> int:
        """Add a batch; how many of its events were new."""
        at = self.snapshot()
        era = self._era(batch, at)
        number = self._begin(at)
        self._add_facts(number, batch, era)
        known = self._known(number, batch, era, at)
        if known:
            batch = _without(batch, known)
            number = self._begin(at)
            self._add_facts(number, batch, era)
        self._add_states(number, [e for e in batch.events if e.type == "state"], era)
        self._add_postings(number, batch.postings)
        self._add_charges(number, batch.charges)
        self._add_call_slots(number, batch.calls)
        self._commit(number, at, at.position if batch.stays else batch.position)
        return len(batch.events)

    def compact(self) -> None:
        """Merge the sums of the days that something was added to, and let go of what failed attempts left.

        What the compaction before has merged goes first: a question that began before that one's commit could still
        read it. Numbers of failed attempts are forgotten at the second compaction after them: by then all that the
        server was still busy with has come and gone.
        """
        at = self.snapshot()
        number = self._begin(at)
        failed = " OR ".join(f"batch > {after} AND batch < {batch}" for after, batch in at.gaps)
        for table in (*_FACTS, *_SUMS) if failed else ():
            self._to.run(f"DELETE FROM {table} WHERE {failed}")
        for table in _SUMS:
            self._to.run(f"DELETE FROM {table} WHERE {at.superseded()}")
        days = self._added_to(at)
        for name in ("compact_spend", "compact_calls", "compact_accounts") if days else ():
            self._to.run(sql(name).format(batch=number, live_slots=at.live_slots(), days=days, day_ms=DAY_MS))
        self._commit(number, replace(at, merged_to=at.batch, merged_days=tuple(days)), at.position)
        self._to.run(
            f"DELETE FROM positions WHERE batch < {at.batch} AND (batch = after + 1 OR batch <= {at.merged_to})"
        )

    def _added_to(self, at: Snapshot) -> list[int]:
        """The days since whose last merging something was added, epoch milliseconds."""
        day = f"intDiv(slot_ms, {DAY_MS}) * {DAY_MS}"
        new = f"NOT merged AND {at.live_slots()}"
        parts = (f"SELECT DISTINCT {day} AS day FROM {table} WHERE {new}" for table in _SUMS)
        return sorted(row[0] for row in self._to.rows(" UNION DISTINCT ".join(parts)))

    def _begin(self, at: Snapshot) -> int:
        """The number of a new attempt: the next one, or, if one may have broken off, one that it can't have had."""
        last, self._number = self._number, 0
        return at.batch + (1 if last and last == at.batch else random.randrange(2, _JUMP))

    def _commit(self, number: int, at: Snapshot, p: Position) -> None:
        row = {"batch": number, "after": at.batch, "merged_to": at.merged_to, "merged_days": at.merged_days}
        row |= {name: getattr(p, name) for name in ("epoch", "sequence", "event_id", "refusal_id")}
        self._to.insert("positions", [orjson.dumps(row)])
        self._number = number

    def _era(self, batch: Batch, at: Snapshot) -> int:
        """The number of the batch's epoch, in the order in which they came."""
        epoch = batch.position.epoch
        found = self.eras()
        if epoch not in found and batch.events:
            found[epoch] = len(found) + 1
            self._to.insert("eras", [orjson.dumps({"epoch": epoch, "era": found[epoch]})])
        return found.get(epoch, len(found) + 1)

    def eras(self) -> dict[str, int]:
        """Epochs and their numbers."""
        return dict(self._to.rows("SELECT epoch, min(era) FROM eras GROUP BY epoch"))

    def _add_facts(self, number: int, batch: Batch, era: int) -> None:
        self._to.insert("events", (with_columns(e, batch=number, era=era) for e in batch.events))
        self._to.insert("calls", (with_columns(c, batch=number, ordinal=n) for n, c in enumerate(batch.calls)))

    def _known(self, number: int, batch: Batch, era: int, at: Snapshot) -> set[str]:
        """Identities of what is in the ledger already: after a rebuild, or if a batch is repeated."""
        refused = [c.at_ms for c in batch.calls if c.kind == "refusal"]
        # Nothing was rebuilt before the end of the first epoch, so what follows the position there is new.
        follows = not batch.events or (era == 1 and batch.events[0].sequence > at.position.sequence)
        if follows and not refused:
            return set()
        sequences = [e.sequence for e in batch.events]
        found = self._to.rows(
            sql("known").format(
                live=at.live(),
                batch=number,
                era=era,
                events_from_ms=_NEVER_MS if follows else min(map(earliest_ms, batch.events)),
                first=min(sequences, default=0),
                last=max(sequences, default=0),
                refused_from_ms=min(refused, default=_NEVER_MS),
                refused_to_ms=max(refused, default=_NEVER_MS),
            )
        )
        return {row[0] for row in found}

    def _add_states(self, number: int, events: Sequence[EventRow], era: int) -> None:
        rows = []
        for event in events:
            told = orjson.loads(event.fields)
            row = {"sequence": event.sequence, "at_ms": event.at_ms, "account_id": told["account"]}
            row |= {"was": int(told["from"]), "now": int(told["to"])}
            row |= {name: int(told[name]) for name in ("spent_nano", "limit_nano")}
            rows.append(row | {"cause": told["cause"], "why": told["why"]})
        self._to.insert("states", (with_columns(row, batch=number, era=era) for row in rows))

    def _add_postings(self, number: int, postings: Sequence[Posting]) -> None:
        sums: dict[tuple[int, str], int] = {}
        for posting in postings:
            key = (posting.at_ms // SLOT_MS * SLOT_MS, posting.account_id)
            sums[key] = sums.get(key, 0) + posting.posted_nano
        rows = [
            {"slot_ms": slot_ms, "account_id": account_id, "posted_nano": nano, "merged": False}
            for (slot_ms, account_id), nano in sums.items()
        ]
        self._to.insert("account_slots", (with_columns(row, batch=number) for row in rows))

    def _add_charges(self, number: int, groups: Sequence[ChargeGroup]) -> None:
        records = (record | {"path": group.path} for group in groups for record in records_of(group))
        self._to.insert("charges", (with_columns(record, batch=number) for record in records))
        self._add_sums("add_spend_slots", number, [group.start_ms for group in groups])

    def _add_call_slots(self, number: int, calls: Sequence[CallRow]) -> None:
        self._add_sums("add_call_slots", number, [call.at_ms for call in calls])

    def _add_sums(self, name: str, number: int, times_ms: Sequence[int]) -> None:
        if times_ms:
            spans, between = list(SPANS_MS), {"from_ms": min(times_ms), "to_ms": max(times_ms)}
            self._to.run(sql(name).format(batch=number, spans=spans, **between))


def _without(batch: Batch, known: set[str]) -> Batch:
    """The batch less what comes of these events."""
    return replace(
        batch,
        events=[e for e in batch.events if e.identity not in known],
        postings=[p for p in batch.postings if p.identity not in known],
        calls=[c for c in batch.calls if c.identity not in known],
        charges=[c for c in batch.charges if c.identity not in known],
    )
