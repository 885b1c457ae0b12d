"""The copy of the live state's events, made from the ledger: where the copy in the data folder is lost with the store.

The next start finds an empty store and this copy, and rebuilds the one from the other (`spendgate.keeper`).
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import orjson

from budget.archive import Archive
from budget.summary import Event, Summary
from budget.verify import MONEY_EVENTS
from core.errors import Conflict
from ledger.model import Position
from ledger.ports import LedgerStore

_PAGE = 1_000


def restore_copy(ledger: LedgerStore, archive: Archive) -> int:
    """Fill an empty archive from the ledger; how many events it has then.

    Raises:
        Conflict: it is not empty.
    """
    if archive.last is not None:
        raise Conflict("there is a copy of the events already; a rebuild uses that. Move it away to make one anew")
    written, page = 0, list[Event]()
    for event in _events(ledger):
        page.append(event)
        written += 1
        if len(page) == _PAGE:
            archive.append(page)
            page = []
    archive.append(page)
    if epoch := ledger.position().epoch:
        archive.enter(epoch)
    return written


def _events(ledger: LedgerStore) -> Iterator[Event]:
    """What the ledger has forgotten as a summary, then what it has."""
    kept: Counter[str] = Counter()
    summary: Summary | None = None
    for row in ledger.events(Position()):
        fields = orjson.loads(row.fields)
        if summary is None:
            summary = Summary(row.event_id, 0)
        if row.type in ("terms", "document"):
            summary.add(row.event_id, fields)
        elif row.type in MONEY_EVENTS and not _is_restated(fields):
            for account in fields["accounts"].split("\n"):
                kept[account] += int(fields["delta_nano"])
    if summary is None:
        return
    total: Counter[str] = Counter()
    for point in ledger.postings(None):
        total[point.account_id] += point.posted_nano
    total.subtract(kept)
    summary.spent_nano = Counter({account: nano for account, nano in total.items() if nano})
    yield from summary.events()
    for row in ledger.events(Position()):
        fields = orjson.loads(row.fields)
        if row.event_id and not _is_restated(fields):
            yield row.event_id, fields


def _is_restated(fields: dict[str, Any]) -> bool:
    """A sum of events that the ledger has one by one."""
    return '"rebuilt"' in fields.get("detail", "")
