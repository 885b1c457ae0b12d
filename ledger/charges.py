"""Cost records of FOCUS 1.4 from what a call cost. Pure.

How a money event becomes cost records:
1. one row for each class of tokens, quantity × unit price = cost, if the charge is what these come to, rounded up;
2. else one row of the whole charge, for one request: an expired hold, an estimate, a price that a webhook named;
3. if something was posted before (an expired hold that was settled after all, a true-up), one row more, of
   ChargeClass Correction, with what is given back or added.

EffectiveCost plus x_RoundingCost, summed over the rows of an event, is exactly what it posted.
"""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import orjson

from core.money import NANO_PER_USD, PICO_PER_NANO
from ledger.model import CallRow, Charge, ChargeGroup, Item
from ledger.scopes import first_keys

_PICO_PER_USD = NANO_PER_USD * PICO_PER_NANO
_DAY_MS = 86_400_000

#: Class of tokens in an event: (SkuMeter, x_TokenType).
TOKEN_CLASSES = {
    "input": ("Input", "input"),
    "cached_input": ("Input Cache", "cache_read"),
    "cache_write": ("Input Cache Write", "cache_write"),
    "output": ("Output", "output"),
    "reasoning": ("Reasoning Output", "reasoning"),
}
#: What a row is about that is no class of tokens: (SkuMeter, end of the SkuId).
_FEE = ("Requests", "request")
_UNCONFIRMED = ("Unconfirmed", "call")
_UNITEMISED = ("Unitemised", "call")
_CORRECTION = ("Correction", "correction")

_DESCRIPTIONS = {
    "Unconfirmed": "Whole hold of a call whose end is not known",
    "Unitemised": "Charge that is not the sum of counted tokens",
}
_CORRECTIONS = {
    "settle": "Given back of a hold that had expired",
    "post": "Given back of a hold that had expired",
    "void": "Given back of a hold that had expired: nothing was charged upstream",
    "expire": "Difference to what was posted before",
    "true_up": "Difference to the cost that a better source told",
    "reconcile": "Difference to the provider's own record",
}
_COST_SOURCES = {"exact": "computed", "estimated": "estimated", "unconfirmed": "estimated", "webhook": "webhook"}


def charges_of(call: CallRow, detail: dict[str, Any], recorded_ms: int) -> ChargeGroup:
    """The cost records of a money event. recorded_ms: epoch milliseconds of x_RecordedAt."""
    start_ms = min(call.started_ms or call.at_ms, call.at_ms)
    about = (
        start_ms // _DAY_MS,
        call.provider or "Unknown",
        call.model_served,
        call.model_requested,
        call.key_id,
        call.state,
        call.basis,
        detail.get("price_version"),
        detail.get("model_owner"),
        detail.get("source", "webhook") if call.surface == "webhook" else "spendgate",
    )
    # A charge period has a length, also where a call began and ended in the same millisecond.
    return ChargeGroup(
        call.identity,
        call.path,
        _chain(tuple(call.scopes)),
        call.hold_id,
        call.request_id,
        start_ms,
        call.at_ms + 1,
        recorded_ms,
        _items(call, detail, about),
    )


def _items(call: CallRow, detail: dict[str, Any], about: tuple[Any, ...]) -> list[Item]:
    posts_cost = call.kind in ("settle", "post", "expire")
    cost_nano = call.cost_nano if posts_cost else 0
    items: list[Item] = []
    if cost_nano:
        items = _itemised(detail, cost_nano, about)
        if not items:
            pico = cost_nano * PICO_PER_NANO
            meter = _UNCONFIRMED if call.kind == "expire" else _UNITEMISED
            items = [Item(_kind(*about, *meter, None), pico, 0, 1, pico)]
    corrected_nano = call.posted_nano - cost_nano
    if corrected_nano:
        kind = _kind(*about, *_CORRECTION, _CORRECTIONS[call.kind])
        items.append(Item(kind, corrected_nano * PICO_PER_NANO, 0, None, None))
    return items


def _itemised(detail: dict[str, Any], cost_nano: int, about: tuple[Any, ...]) -> list[Item]:
    """A row for each class of tokens and for the fee of the call; none if they do not come to the cost."""
    prices, tokens = detail.get("prices"), detail.get("tokens")
    if not prices or not tokens:
        return []
    total_pico, items = 0, []
    for name, meter in TOKEN_CLASSES.items():
        quantity = tokens.get(name, 0)
        if quantity:
            unit_pico = prices[name]
            pico = quantity * unit_pico
            total_pico += pico
            items.append(Item(_kind(*about, *meter, None), pico, 0, quantity, unit_pico))
    fee_nano = prices["request_nano"]
    if fee_nano:
        pico = fee_nano * PICO_PER_NANO
        total_pico += pico
        items.append(Item(_kind(*about, *_FEE, None), pico, 0, 1, pico))
    rounding_pico = cost_nano * PICO_PER_NANO - total_pico
    if not items or not 0 <= rounding_pico < PICO_PER_NANO:
        return []
    first = items[0]
    items[0] = Item(first.kind, first.cost_pico, rounding_pico, first.quantity, first.unit_pico)
    return items


@lru_cache(maxsize=20_000)
def _kind(
    day: int,
    provider: str,
    model: str | None,
    asked: str | None,
    key_id: str | None,
    state: str | None,
    basis: str | None,
    price_version: str | None,
    owner: str | None,
    source: str,
    meter: str,
    sku: str,
    correction: str | None,
) -> Charge:
    """What many records share. correction: what it corrects."""
    month_start, month_end = _month(day)
    exact = basis == "exact"
    name = model or asked or "unknown"
    tokens = (meter, sku) in TOKEN_CLASSES.values()
    kind: Charge = {
        "BillingPeriodStart": month_start,
        "BillingPeriodEnd": month_end,
        "BillingCurrency": "USD",
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargeDescription": correction or _DESCRIPTIONS.get(meter) or f"{meter} of {name}",
        "InvoiceIssuerName": provider,
        "ServiceProviderName": provider,
        "HostProviderName": provider,
        "ServiceCategory": "AI and Machine Learning",
        "ServiceSubcategory": "Generative AI",
        "ServiceName": f"{provider} model serving",
        "SkuId": f"{name}/{sku}",
        "SkuMeter": meter,
        "x_SourceSystem": source,
        "x_SourceVersion": 1,
        "x_CostBasis": "metered" if exact or basis == "webhook" else "estimated",
        "x_CostSource": _COST_SOURCES.get(basis or "", "estimated"),
        "x_Confidence": "high" if exact else "medium" if basis == "webhook" else "low",
    }
    if correction:
        kind["ChargeClass"] = "Correction"
    else:
        whole = sku == _UNITEMISED[1]  # the call is one unit, at a price of its own
        unit = "Tokens" if tokens else "Requests"
        kind |= {"ConsumedUnit": unit, "PricingUnit": unit, "PricingCategory": "Other" if whole else "Standard"}
        kind["SkuPriceId"] = f"{name}/{sku}/{'once' if whole else 'standard'}"
    if tokens:
        details = {"x_TokenType": sku} | ({"x_ModelProvider": owner} if owner else {})
        kind |= {"SkuPriceDetails": orjson.dumps(details).decode(), "x_TokenType": sku}
    told = {
        "x_ModelServed": model,
        "x_ModelRequested": asked,
        "x_CredentialId": key_id,
        "x_BudgetState": state,
        "x_PriceVersion": price_version,
    }
    return kind | {column: found for column, found in told.items() if found}


@lru_cache(maxsize=20_000)
def _chain(scopes: tuple[str, ...]) -> Charge:
    """What the scopes of a call tell, narrow to wide."""
    keys = first_keys(scopes)
    chain: Charge = {
        "BillingAccountId": keys.get("org", "default"),
        "x_ScopePath": "/".join(reversed(scopes)),
        "Tags": orjson.dumps(keys).decode(),
    }
    if agent := keys.get("agent"):
        chain |= {"ResourceId": agent, "ResourceName": agent, "ResourceType": "LLM Agent", "x_AgentId": agent}
    if team := keys.get("team"):
        chain |= {"SubAccountId": team, "SubAccountName": team, "SubAccountType": "Team"}
    if user := keys.get("user"):
        chain["x_PrincipalId"] = user
    return chain


def records_of(group: ChargeGroup) -> list[Charge]:
    """Each record of a group, whole."""
    shared = group.chain | {
        "ChargePeriodStart": timestamp(group.start_ms),
        "ChargePeriodEnd": timestamp(group.end_ms),
        "x_RecordedAt": timestamp(group.recorded_ms),
        "x_HoldId": group.hold_id,
        "x_AttemptId": group.hold_id,
    }
    if group.request_id:
        shared["x_RequestId"] = group.request_id
    return [shared | _record(item, f"{group.identity}:{number}") for number, item in enumerate(group.items)]


def _record(item: Item, source_record_id: str) -> Charge:
    cost = usd_of_pico(item.cost_pico)
    record = item.kind | {
        "BilledCost": cost,
        "EffectiveCost": cost,
        "ListCost": cost,
        "ContractedCost": cost,
        "x_RoundingCost": usd_of_pico(item.rounding_pico),
        "x_SourceRecordId": source_record_id,
    }
    if item.quantity is not None:
        record["ConsumedQuantity"] = record["PricingQuantity"] = f"{item.quantity}.0"
    if item.unit_pico is not None:
        record["ListUnitPrice"] = record["ContractedUnitPrice"] = usd_of_pico(item.unit_pico)
    return record


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
