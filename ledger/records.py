"""Events of the live state to the ledger's rows. Pure.

How a money event becomes cost records:
1. one row for each class of tokens, quantity × unit price = cost, if the charge is what these come to, rounded up;
2. else one row of the whole charge, without a quantity: an expired hold, an estimate, a price that a webhook named;
3. if something was posted before (an expired hold that was settled after all, a true-up), one row more, of
   ChargeClass Correction, with what is given back or added.

EffectiveCost plus x_RoundingCost, summed over the rows of an event, is exactly what it posted.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from core.money import NANO_PER_USD, PICO_PER_NANO
from ledger.model import Batch, CallRow, Charge, ChargeGroup, EventRow, Position, Posting
from ledger.scopes import summed_path

_PICO_PER_USD = NANO_PER_USD * PICO_PER_NANO
_MONEY = frozenset({"settle", "void", "expire", "true_up", "post"})
_NO_DETAIL: dict[str, Any] = {}

#: Class of tokens in an event: (SkuMeter, x_TokenType).
TOKEN_CLASSES = {
    "input": ("Input", "input"),
    "cached_input": ("Input Cache", "cache_read"),
    "cache_write": ("Input Cache Write", "cache_write"),
    "output": ("Output", "output"),
    "reasoning": ("Reasoning Output", "reasoning"),
}
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
    recorded = timestamp(recorded_ms)
    rows = Batch(start)
    sequence, event_id, refusal_id = start.sequence, start.event_id, start.refusal_id
    if start.epoch != epoch:
        sequence, event_id = 0, ""
    for event_id, fields in events:
        sequence = int(fields["seq"])
        _add_event(rows, event_id, fields, epoch, recorded)
    for refusal_id, fields in refusals:
        rows.calls.append(_refusal(refusal_id, fields))
    rows.position = Position(epoch, sequence, event_id, refusal_id)
    return rows


def _add_event(rows: Batch, event_id: str, fields: dict[str, str], epoch: str, recorded: str) -> None:
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
        rows.charges.append(charges_of(call, detail, recorded))


def _identity(kind: str, fields: dict[str, str]) -> str:
    """Of an event that is not about a hold: what it says, and when, as it is said again under another epoch."""
    named = (fields.get(name, "") for name in ("account", "to", "terms", "id", "version", "at_ms"))
    return ":".join((kind, *named))


def _add_postings(rows: Batch, identity: str, at_ms: int, fields: dict[str, str], posted_nano: int) -> None:
    account_ids = fields["accounts"].split("\n")
    spent = fields.get("spent_after", "").split()
    known = len(spent) == len(account_ids)
    rows.postings += [
        Posting(identity, at_ms, account_id, posted_nano, int(spent[n]) if known else None)
        for n, account_id in enumerate(account_ids)
    ]


def _call(identity: str, at_ms: int, fields: dict[str, str], detail: dict[str, Any], posted_nano: int) -> CallRow:
    kind = fields["type"]
    tokens, cost_nano = detail.get("tokens", _NO_DETAIL), int(fields["cost_nano"])
    asked, served = detail.get("model_requested"), detail.get("model_served")
    started_ms, ended_ms = detail.get("started_ms"), detail.get("ended_ms")
    outcome = "expired" if kind == "expire" else detail.get("outcome") or ("webhook" if _is_foreign(detail) else kind)
    return CallRow(
        identity=identity,
        at_ms=at_ms,
        kind=kind,
        outcome=outcome,
        hold_id=fields["hold"],
        **_who(detail),
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
    who = _who(detail)
    return CallRow(
        identity=f"refusal:{refusal_id}",
        at_ms=int(fields["at_ms"]),
        kind="refusal",
        outcome="refused",
        hold_id=fields["hold"],
        **who,
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
    )


def _who(detail: dict[str, Any]) -> dict[str, Any]:
    scopes = detail.get("scopes", [])
    keys = _keys(tuple(scopes))
    return {
        "request_id": detail.get("request_id") or detail.get("source_id"),
        "surface": detail.get("surface") or ("webhook" if _is_foreign(detail) else None),
        "operation": detail.get("operation"),
        "stream": bool(detail.get("stream")),
        "key_id": detail.get("key_id"),
        "scopes": scopes,
        "agent": keys.get("agent"),
        "team": keys.get("team"),
        "path": summed_path(tuple(scopes)),
    }


def _is_foreign(detail: Mapping[str, Any]) -> bool:
    return "source" in detail


@lru_cache(maxsize=10_000)
def _keys(scopes: tuple[str, ...]) -> dict[str, str]:
    """The first key of each type of scope in a chain."""
    found: dict[str, str] = {}
    for scope in scopes:
        kind, _, key = scope.partition(":")
        found.setdefault(kind, key)
    return found


def _saved_nano(detail: dict[str, Any], tokens: Mapping[str, int], cost_nano: int) -> int:
    """What the same tokens would have cost more at the model that was asked for; never less than nothing."""
    prices = detail.get("asked_prices")
    if not prices or not tokens:
        return 0
    pico: int = sum(tokens.get(name, 0) * prices[name] for name in TOKEN_CLASSES)
    dearer_nano: int = -(-pico // PICO_PER_NANO) + prices["request_nano"]
    return max(0, dearer_nano - cost_nano)


def charges_of(call: CallRow, detail: dict[str, Any], recorded: str) -> ChargeGroup:
    """The cost records of a row about a call.

    detail: of its event. recorded: x_RecordedAt, as `timestamp` writes it.
    """
    return ChargeGroup(call.identity, call.path, _common(call, detail, recorded), _rows(call, detail))


def _rows(call: CallRow, detail: dict[str, Any]) -> list[Charge]:
    posts_cost = call.kind in ("settle", "post", "expire")
    cost_nano = call.cost_nano if posts_cost else 0
    corrected_nano = call.posted_nano - cost_nano
    rows = []
    if cost_nano:
        rows = _items(detail, cost_nano) or [_costs(cost_nano * PICO_PER_NANO) | _unitemised(call)]
    if corrected_nano:
        meter = {"ChargeClass": "Correction", "SkuMeter": "Correction", "ChargeDescription": _CORRECTIONS[call.kind]}
        rows.append(_costs(corrected_nano * PICO_PER_NANO) | meter)
    for number, row in enumerate(rows):
        row.setdefault("x_RoundingCost", "0.0")
        row["x_SourceRecordId"] = f"{call.identity}:{number}"
    return rows


_CORRECTIONS = {
    "settle": "Given back of a hold that had expired",
    "post": "Given back of a hold that had expired",
    "void": "Given back of a hold that had expired: nothing was charged upstream",
    "expire": "Difference to what was posted before",
    "true_up": "Difference to the cost that a better source told",
    "reconcile": "Difference to the provider's own record",
}


def _items(detail: dict[str, Any], cost_nano: int) -> list[Charge]:
    """A row for each class of tokens and for the fee of the call; none if they do not come to the cost."""
    prices, tokens = detail.get("prices"), detail.get("tokens")
    if not prices or not tokens:
        return []
    total_pico, items = 0, []
    for name, (meter, token_type) in TOKEN_CLASSES.items():
        quantity = tokens.get(name, 0)
        if quantity:
            pico = quantity * prices[name]
            total_pico += pico
            items.append(_item(detail["model_served"], meter, token_type, quantity, prices[name], pico))
    fee_nano = prices["request_nano"]
    if fee_nano:
        pico = fee_nano * PICO_PER_NANO
        total_pico += pico
        items.append(_item(detail["model_served"], "Requests", None, 1, pico, pico))
    rounding_pico = cost_nano * PICO_PER_NANO - total_pico
    if not items or not 0 <= rounding_pico < PICO_PER_NANO:
        return []
    items[0]["x_RoundingCost"] = usd_of_pico(rounding_pico)
    return items


def _item(model: str, meter: str, token_type: str | None, quantity: int, unit_pico: int, pico: int) -> Charge:
    amount, unit_price, cost = f"{quantity}.0", usd_of_pico(unit_pico), usd_of_pico(pico)
    unit = "Tokens" if token_type else "Requests"
    sku_id = f"{model}/{token_type or 'request'}"
    item: Charge = {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ContractedCost": cost,
        "ConsumedQuantity": amount,
        "ConsumedUnit": unit,
        "PricingQuantity": amount,
        "PricingUnit": unit,
        "ListUnitPrice": unit_price,
        "ContractedUnitPrice": unit_price,
        "PricingCategory": "Standard",
        "SkuId": sku_id,
        "SkuPriceId": f"{sku_id}/standard",
        "SkuMeter": meter,
    }
    if token_type:
        item["SkuPriceDetails"] = f'{{"x_TokenType":"{token_type}"}}'
        item["x_TokenType"] = token_type
    return item


def _costs(pico: int) -> Charge:
    cost = usd_of_pico(pico)
    return {"BilledCost": cost, "EffectiveCost": cost, "ListCost": cost, "ContractedCost": cost}


def _unitemised(call: CallRow) -> Charge:
    if call.kind == "expire":
        return {"SkuMeter": "Unconfirmed", "ChargeDescription": "Whole hold of a call whose end is not known"}
    return {"SkuMeter": "Unitemised", "ChargeDescription": "Charge that is not the sum of counted tokens"}


def _common(call: CallRow, detail: dict[str, Any], recorded: str) -> Charge:
    """What all rows of an event share."""
    provider = call.provider or "Unknown"
    began_ms = call.started_ms or call.at_ms
    month_start, month_end = _month(call.at_ms // 86_400_000)
    exact = call.basis == "exact"
    # A charge period has a length; a call that began and ended in the same millisecond gets one.
    common: Charge = {
        "BillingPeriodStart": month_start,
        "BillingPeriodEnd": month_end,
        "ChargePeriodStart": timestamp(min(began_ms, call.at_ms)),
        "ChargePeriodEnd": timestamp(call.at_ms + 1),
        "BillingAccountId": _keys(tuple(call.scopes)).get("org", "default"),
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "InvoiceIssuerName": provider,
        "ServiceProviderName": provider,
        "HostProviderName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": f"{provider} model serving",
        "x_SourceSystem": "spendgate" if call.surface != "webhook" else detail.get("source", "webhook"),
        "x_SourceVersion": 1,
        "x_CostBasis": "metered" if exact or call.basis == "webhook" else "estimated",
        "x_CostSource": _COST_SOURCES.get(call.basis or "", "estimated"),
        "x_Confidence": "high" if exact else "medium" if call.basis == "webhook" else "low",
        "x_HoldId": call.hold_id,
        "x_AttemptId": call.hold_id,
        "x_ScopePath": "/".join(reversed(call.scopes)),
        "x_RecordedAt": recorded,
        "Tags": orjson.dumps({kind: key for kind, _, key in (s.partition(":") for s in call.scopes)}).decode(),
    }
    if call.agent:
        common |= {"ResourceId": call.agent, "ResourceName": call.agent, "ResourceType": "LLM Agent"}
        common["x_AgentId"] = call.agent
    if call.team:
        common |= {"SubAccountId": call.team, "SubAccountName": call.team, "SubAccountType": "Team"}
    for column, found in (
        ("x_RequestId", call.request_id),
        ("x_CredentialId", call.key_id),
        ("x_ModelRequested", call.model_requested),
        ("x_ModelServed", call.model_served),
        ("x_BudgetState", call.state),
        ("x_PriceVersion", detail.get("price_version")),
        ("x_PrincipalId", _keys(tuple(call.scopes)).get("user")),
    ):
        if found:
            common[column] = found
    return common


_COST_SOURCES = {"exact": "computed", "estimated": "estimated", "unconfirmed": "estimated", "webhook": "webhook"}


def _detail(fields: dict[str, str]) -> dict[str, Any]:
    text = fields.get("detail")
    if not text or text == "{}":
        return _NO_DETAIL
    detail: dict[str, Any] = orjson.loads(text)
    return detail


def usd_of_pico(pico: int) -> str:
    """Pico-dollars as decimal dollars, exact, with a decimal point: ``"0.0000015"``, ``"1200.0"``."""
    if pico < 0:
        return "-" + usd_of_pico(-pico)
    whole, rest = divmod(pico, _PICO_PER_USD)
    return f"{whole}.{rest:012d}".rstrip("0") if rest else f"{whole}.0"


def timestamp(at_ms: int) -> str:
    """Epoch milliseconds as ISO 8601 in UTC without a zone: ``2026-11-23T10:00:00.123``."""
    second, ms = divmod(at_ms, 1000)
    return f"{_second(second)}.{ms:03d}"


@lru_cache(maxsize=4096)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=1024)
def _month(day: int) -> tuple[str, str]:
    """Start and end, exclusive, of the month that a day since 1970 is in."""
    date = datetime.fromtimestamp(day * 86_400, UTC)
    after = (date.year + date.month // 12, date.month % 12 + 1)
    return f"{date.year}-{date.month:02d}-01T00:00:00.000", f"{after[0]}-{after[1]:02d}-01T00:00:00.000"
