"""What many events come to, as few events: with these an archive begins that no longer has, or never had, the many.

A rebuild makes the same accounts, documents and open holds of them (`budget.rebuild`). Money that is given as a sum is
marked `rebuilt`: whoever counts single calls has counted it already, or never will.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from budget.model import HoldStatus
from budget.redis_store import RedisBudgetStore
from budget.texts import hold_text
from budget.verify import MONEY_EVENTS
from core.ids import derived_id

Event = tuple[str, dict[str, str]]
_DETAIL = json.dumps({"outcome": "rebuilt"})


@dataclass(slots=True)
class Summary:
    """Of all events up to one: the last terms of each account, the last text of each document, what was posted on each
    account in nano-dollars, and the holds that had not ended.
    """

    event_id: str
    sequence: int
    terms: dict[str, dict[str, str]] = field(default_factory=dict)
    documents: dict[str, dict[str, str]] = field(default_factory=dict)
    spent_nano: Counter[str] = field(default_factory=Counter)
    open_holds: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, event_id: str, fields: dict[str, str]) -> None:
        """The next event."""
        self.event_id, self.sequence = event_id, int(fields["seq"])
        kind = fields["type"]
        if kind == "terms":
            self.terms[fields["account"]] = fields
        elif kind == "document":
            self.documents[fields["id"]] = fields
        elif kind == "hold":
            self.open_holds[fields["hold"]] = fields
        elif kind in MONEY_EVENTS:
            if fields["before"] == "held":
                self.open_holds.pop(fields["hold"], None)
            for account in fields["accounts"].split("\n"):
                self.spent_nano[account] += int(fields["delta_nano"])

    def forget_accounts(self, now_ms: int) -> None:
        """Leave out accounts that are no longer kept."""
        for account, fields in tuple(self.terms.items()):
            if fields["keep_until_ms"] and int(fields["keep_until_ms"]) <= now_ms:
                del self.terms[account]
                self.spent_nano.pop(account, None)

    def events(self) -> Iterator[Event]:
        """As events; all have the id and the sequence of the last that they stand for."""
        common = {"seq": str(self.sequence), "summary": "1"}
        documents = sorted(self.documents.values(), key=lambda d: int(d["version"]))
        for fields in (*documents, *self.terms.values(), *self.open_holds.values()):
            yield self.event_id, fields | common
        for account, nano in self.spent_nano.items():
            yield self.event_id, common | _posted(account, nano, self.event_id)
        yield self.event_id, common | {"type": "summary", "at_ms": "0"}


async def summary_of_trimmed(store: RedisBudgetStore) -> Summary:
    """Of the events that a store has trimmed.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    trimmed = await store.trimmed()
    summary = Summary(trimmed.id, trimmed.events, spent_nano=Counter(trimmed.spent_nano))
    for account in await store.all_accounts():
        found = await _terms(store, account)
        if found:
            summary.terms[account] = found
    _, changes = await store.changes_since(-1)
    for change in changes:
        name = f"{change.kind}:{change.id}"
        text = "" if change.text is None else change.text.decode()
        summary.documents[name] = {
            "type": "document",
            "id": name,
            "change": "delete" if change.text is None else "put",
            "version": str(change.version),
            "text": text,
            "at_ms": "0",
        }
    for hold_id in trimmed.open_holds:
        hold = await _hold(store, hold_id)
        if hold:
            summary.open_holds[hold_id] = hold
    return summary


async def _terms(store: RedisBudgetStore, account_id: str) -> dict[str, str] | None:
    """An account's limits and end, as in its last event; None: it has none."""
    key = store.key("a", account_id)
    terms = await store.link.command("HGET", key, "terms")
    end_ms = await store.link.command("ZSCORE", store.key("a"), account_id)
    until_ms = int(await store.link.command("PEXPIRETIME", key))
    if terms is None or end_ms is None:
        return None
    return {
        "type": "terms",
        "account": account_id,
        "terms": terms.decode(),
        "period_end_ms": "" if float(end_ms) == math.inf else str(int(float(end_ms))),
        "keep_until_ms": str(until_ms) if until_ms > 0 else "",
        "at_ms": "0",
    }


async def _hold(store: RedisBudgetStore, hold_id: str) -> dict[str, str] | None:
    """A hold as in its event; None: it is not open any more."""
    raw = await store.link.command("GET", store.key("hold", hold_id))
    hold = hold_text(raw) if raw else None
    if hold is None or hold.status != HoldStatus.HELD:
        return None
    return {
        "type": "hold",
        "hold": hold_id,
        "amount_nano": hold.amount,
        "candidate": hold.candidate,
        "tokens": hold.tokens,
        "accounts": hold.accounts,
        "owner": hold.owner,
        "detail": hold.detail,
        "at_ms": hold.held_ms,
    }


def _posted(account: str, nano: int, event_id: str) -> dict[str, str]:
    return {
        "type": "post",
        "hold": derived_id("sum", event_id, account),
        "before": "none",
        "cost_nano": str(nano),
        "delta_nano": str(nano),
        "overage_nano": "0",
        "held_nano": "0",
        "basis": "exact",
        "accounts": account,
        "spent_after": str(nano),
        "at_ms": "0",
        "detail": _DETAIL,
    }
