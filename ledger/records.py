"""Events of the live state to the ledger's rows. Pure; `ledger.charges` makes the cost records."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

from core.money import PICO_PER_NANO
from ledger.charges import TOKEN_CLASSES, charges_of
from ledger.model import Batch, CallRow, EventRow, Position, Posting
from ledger.scopes import first_keys, summed_path

_MONEY = frozenset({"settle", "void", "expire", "true_up", "post"})
_NO_DETAIL: dict[str, Any] = {}

#: Of a sum that a rebuild of the live state posted for many old events at once: they are in the ledger already.
_RESTATED = "rebuilt"


def batch_of(
    events: Iterable[tuple[str, dict[str, str]]],
    refusals: Iterable[tuple[str, dict[str, str]]],
    start: Position,
    epoch: str,
    recorded_ms: int,
) -> Batch:
    """The rows of events and refusals that follow `start`.

    epoch: of the memory that the events are of. recorded_ms: epoch milliseconds of x_RecordedAt.
    """
    rows = Batch(start)
    sequence, event_id, refusal_id = start.sequence, start.event_id, start.refusal_id
    if start.epoch != epoch:
        sequence, event_id = 0, ""
    for event_id, fields in events:
        sequence = int(fields["seq"])
        _add_event(rows, event_id, fields, epoch, recorded_ms)
    for refusal_id, fields in refusals:
        rows.calls.append(_refusal(refusal_id, fields))
    rows.position = Position(epoch, sequence, event_id, refusal_id)
    return rows


def _add_event(rows: Batch, event_id: str, fields: dict[str, str], epoch: str, recorded_ms: int) -> None:
    kind, hold_id = fields["type"], fields.get("hold")
    detail = _detail(fields)
    at_ms = int(fields["at_ms"])
    identity = f"{hold_id}:{kind}" if hold_id else _identity(kind, fields)
    rows.events.append(
        EventRow(
            identity,
            event_id,
            epoch,
            int(fields["seq"]),
            at_ms,
            kind,
            hold_id,
            detail.get("request_id"),
            orjson.dumps(fields).decode(),
        )
    )
    if kind not in _MONEY or detail.get("outcome") == _RESTATED:
        return
    posted_nano = int(fields["delta_nano"])
    _add_postings(rows, identity, at_ms, fields, posted_nano)
    call = _call(identity, at_ms, fields, detail, posted_nano)
    rows.calls.append(call)
    if posted_nano or call.cost_nano:
        rows.charges.append(charges_of(call, detail, recorded_ms))


def _identity(kind: str, fields: dict[str, str]) -> str:
    """Of an event that is not about a hold: what it says, and when, as it is said again under another epoch."""
    named = (fields.get(name, "") for name in ("account", "to", "terms", "id", "version", "at_ms"))
    return ":".join((kind, *named))


def _add_postings(rows: Batch, identity: str, at_ms: int, fields: dict[str, str], posted_nano: int) -> None:
    for account_id in fields["accounts"].split("\n"):
        rows.postings.append(Posting(identity, at_ms, account_id, posted_nano))


def _call(identity: str, at_ms: int, fields: dict[str, str], detail: dict[str, Any], posted_nano: int) -> CallRow:
    kind = fields["type"]
    tokens, cost_nano = detail.get("tokens", _NO_DETAIL), int(fields["cost_nano"])
    asked, served = detail.get("model_requested"), detail.get("model_served")
    started_ms, ended_ms = detail.get("started_ms"), detail.get("ended_ms")
    scopes = detail.get("scopes", [])
    agent, team, path = _chain(tuple(scopes))
    outcome = "expired" if kind == "expire" else detail.get("outcome") or ("webhook" if _is_foreign(detail) else kind)
    return CallRow(
        identity=identity,
        at_ms=at_ms,
        kind=kind,
        outcome=outcome,
        hold_id=fields["hold"],
        request_id=detail.get("request_id") or detail.get("source_id"),
        surface=_surface(detail),
        operation=detail.get("operation"),
        stream=bool(detail.get("stream")),
        key_id=detail.get("key_id"),
        scopes=scopes,
        agent=agent,
        team=team,
        path=path,
        provider=detail.get("provider"),
        model_requested=asked or served,
        model_served=served,
        downgraded="asked_prices" in detail,
        state=detail.get("state"),
        basis=fields["basis"],
        why=detail.get("why"),
        posted_nano=posted_nano,
        cost_nano=cost_nano,
        held_nano=int(fields["held_nano"] or 0),
        saved_nano=_saved_nano(detail, tokens, cost_nano) if kind == "settle" else 0,
        input_tokens=tokens.get("input", 0),
        cached_input_tokens=tokens.get("cached_input", 0),
        cache_write_tokens=tokens.get("cache_write", 0),
        output_tokens=tokens.get("output", 0),
        reasoning_tokens=tokens.get("reasoning", 0),
        started_ms=started_ms,
        latency_ms=ended_ms - started_ms if started_ms and ended_ms else None,
        upstream_ms=detail.get("upstream_ms"),
        refusal=None,
        account_id=None,
    )


def _refusal(refusal_id: str, fields: dict[str, str]) -> CallRow:
    detail = _detail(fields)
    account_ids = fields["accounts"].split("\n")
    index = fields["account"]
    scopes = detail.get("scopes", [])
    agent, team, path = _chain(tuple(scopes))
    return CallRow(
        identity=f"refusal:{refusal_id}",
        at_ms=int(fields["at_ms"]),
        kind="refusal",
        outcome="refused",
        hold_id=fields["hold"],
        request_id=detail.get("request_id") or detail.get("source_id"),
        surface=_surface(detail),
        operation=detail.get("operation"),
        stream=bool(detail.get("stream")),
        key_id=detail.get("key_id"),
        scopes=scopes,
        agent=agent,
        team=team,
        path=path,
        provider=None,
        model_requested=detail.get("model_requested"),
        model_served=None,
        downgraded=False,
        state=None,
        basis=None,
        why=None,
        posted_nano=0,
        cost_nano=0,
        held_nano=0,
        saved_nano=int(fields["needed_nano"]),
        input_tokens=0,
        cached_input_tokens=0,
        cache_write_tokens=0,
        output_tokens=0,
        reasoning_tokens=0,
        started_ms=detail.get("started_ms"),
        latency_ms=None,
        upstream_ms=None,
        refusal=fields["code"],
        account_id=account_ids[int(index)] if index else None,
        balances=_balances(account_ids, fields.get("balances", "")),
    )


def _balances(account_ids: list[str], told: str) -> str | None:
    """How accounts stood, a line of "spent held state limit hard" each, as `CallRow.balances`."""
    if not told:
        return None
    lines = zip(account_ids, told.split("\n"), strict=True)
    return orjson.dumps([[account_id, *map(int, line.split())] for account_id, line in lines]).decode()


@lru_cache(maxsize=65_536)
def _chain(scopes: tuple[str, ...]) -> tuple[str | None, str | None, str]:
    """Agent, team and path of a chain."""
    keys = first_keys(scopes)
    return keys.get("agent"), keys.get("team"), summed_path(scopes)


def _surface(detail: Mapping[str, Any]) -> str | None:
    return detail.get("surface") or ("webhook" if _is_foreign(detail) else None)


def _is_foreign(detail: Mapping[str, Any]) -> bool:
    return "source" in detail


def _saved_nano(detail: dict[str, Any], tokens: Mapping[str, int], cost_nano: int) -> int:
    """What the same tokens would have cost more at the model that was asked for; never less than nothing."""
    prices = detail.get("asked_prices")
    if not prices or not tokens:
        return 0
    pico: int = sum(tokens.get(name, 0) * prices[name] for name in TOKEN_CLASSES)
    dearer_nano: int = -(-pico // PICO_PER_NANO) + prices["request_nano"]
    return max(0, dearer_nano - cost_nano)


def _detail(fields: dict[str, str]) -> dict[str, Any]:
    text = fields.get("detail")
    if not text or text == "{}":
        return _NO_DETAIL
    detail: dict[str, Any] = orjson.loads(text)
    return detail
