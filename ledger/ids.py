"""The times that ids tell (core/ids.py), by which a search among many millions of rows is bounded."""

from core.ids import id_ms
from ledger.model import EventRow
from ledger.ports import Interval

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
#: How long after its request an event may come.
_LONGEST_MS = 100 * _DAY_MS


#: How long after a call began something may still be said of it: a late settlement, a webhook, an adjustment.
_TOLD_WITHIN_MS = 7 * _DAY_MS
ALL_TIME = Interval(0, 2**62)


def around(request_id: str) -> Interval:
    """When what is known of a request can have happened; all time, if its id does not tell."""
    began_ms = id_ms(request_id)
    if began_ms is None:
        return ALL_TIME
    return Interval(began_ms - _HOUR_MS, began_ms + _TOLD_WITHIN_MS)


def earliest_ms(event: EventRow) -> int:
    """When the same event can have been written first: not before its request came, or, if that is not told, a day
    before. A worker tells a rebuilt store what it settled shortly before, which then has a later time.
    """
    if event.hold_id is None:
        return event.at_ms
    for own_id in (event.request_id, event.hold_id):
        began_ms = id_ms(own_id) if own_id else None
        if began_ms is not None and event.at_ms - _LONGEST_MS <= began_ms <= event.at_ms + _HOUR_MS:
            return min(began_ms, event.at_ms)
    return event.at_ms - _DAY_MS
