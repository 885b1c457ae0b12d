"""What a ledger must answer, worked out from the rows themselves, slowly and plainly."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import orjson

from ledger.charges import records_of
from ledger.model import Batch, CallRow
from ledger.ports import CallsRow, Filter, SpendAsk, SpendRow

_SPEND = {
    "provider": "ServiceProviderName",
    "service": "ServiceName",
    "category": "ServiceCategory",
    "meter": "SkuMeter",
    "model": "x_ModelServed",
    "model_requested": "x_ModelRequested",
    "basis": "x_CostBasis",
    "source": "x_CostSource",
}
_CALLS = ("provider", "model_requested", "state", "outcome", "kind", "refusal")


@dataclass
class _Fact:
    """A record or a call: when, its scopes and dimensions, and what is summed."""

    at_ms: int
    dimensions: dict[str, str | None]
    scopes: dict[str, str]
    sums: dict[str, Any]

    def of(self, dimension: str) -> str | None:
        """Its value in a dimension, or its key of a type of scope."""
        return self.dimensions[dimension] if dimension in self.dimensions else self.scopes.get(dimension)


class Oracle:
    """What a ledger of these batches must answer, to several questions."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        batches = list(batches)
        self._charges = [_of_charge(r) for b in batches for group in b.charges for r in records_of(group)]
        self._calls = [_of_call(c) for b in batches for c in b.calls]

    def spend(self, ask: SpendAsk) -> list[SpendRow]:
        """As `LedgerStore.spend`, sorted."""
        rows = [
            SpendRow(group, bucket, sums["cost"], sums["list_cost"], sums["quantity"])
            for (group, bucket), sums in _summed(self._charges, ask).items()
        ]
        return sorted(rows, key=by_group)

    def calls(self, ask: SpendAsk) -> list[CallsRow]:
        """As `LedgerStore.calls`, sorted."""
        rows = [CallsRow(group, bucket, **sums) for (group, bucket), sums in _summed(self._calls, ask).items()]
        return sorted(rows, key=by_group)


def spend(batches: Iterable[Batch], ask: SpendAsk) -> list[SpendRow]:
    """As `LedgerStore.spend`, sorted."""
    return Oracle(batches).spend(ask)


def calls(batches: Iterable[Batch], ask: SpendAsk) -> list[CallsRow]:
    """As `LedgerStore.calls`, sorted."""
    return Oracle(batches).calls(ask)


def by_group(row: SpendRow | CallsRow) -> tuple[Any, ...]:
    """An order for rows of sums, None first."""
    return (row.bucket_ms or 0, [(key is not None, key or "") for key in row.group])


def matches(call: CallRow, filters: Iterable[Filter]) -> bool:
    """Whether a call passes filters."""
    return _passes(_of_call(call), filters)


def _summed(facts: list[_Fact], ask: SpendAsk) -> dict[tuple[tuple[str | None, ...], int | None], dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {}
    for fact in facts:
        if not ask.interval.start_ms <= fact.at_ms < ask.interval.end_ms or not _passes(fact, ask.filters):
            continue
        key = (tuple(fact.of(d) for d in ask.group_by), bucket_ms(fact.at_ms, ask))
        sums = found.setdefault(key, defaultdict(int))
        for name, amount in fact.sums.items():
            sums[name] += amount
    return found


def _passes(fact: _Fact, filters: Iterable[Filter]) -> bool:
    return all(fact.of(wanted.dimension) in wanted.values for wanted in filters)


def bucket_ms(at_ms: int, ask: SpendAsk) -> int | None:
    """The start of the bucket that an instant is in."""
    if ask.bucket is None:
        return None
    local = datetime.fromtimestamp(at_ms / 1000, UTC).astimezone(ZoneInfo(ask.zone)).replace(tzinfo=None)
    if ask.bucket == "hour":  # an hour that a clock shows twice is two
        return at_ms - (local.minute * 60 + local.second) * 1000 - local.microsecond // 1000
    start = local.replace(hour=0, minute=0, second=0, microsecond=0)
    if ask.bucket == "week":
        start -= timedelta(days=start.weekday())
    if ask.bucket == "month":
        start = start.replace(day=1)
    return round(start.replace(tzinfo=ZoneInfo(ask.zone)).timestamp() * 1000)


def _of_charge(record: dict[str, Any]) -> _Fact:
    start = datetime.fromisoformat(record["ChargePeriodStart"]).replace(tzinfo=UTC)
    return _Fact(
        at_ms=round(start.timestamp() * 1000),
        dimensions={name: record.get(column) for name, column in _SPEND.items()},
        scopes=orjson.loads(record["Tags"]),
        sums={
            "cost": Decimal(record["EffectiveCost"]) + Decimal(record["x_RoundingCost"]),
            "list_cost": Decimal(record["ListCost"]),
            "quantity": Decimal(record.get("ConsumedQuantity", 0)),
        },
    )


def _of_call(call: CallRow) -> _Fact:
    refused, expired = call.kind == "refusal", call.kind == "expire"
    # What came after an expiry was no other call, and a true-up never is one.
    late = call.kind in ("settle", "void") and call.posted_nano != call.cost_nano
    ended = not refused and call.kind != "true_up" and not late
    return _Fact(
        at_ms=call.at_ms,
        dimensions={name: getattr(call, name) for name in _CALLS}
        | {"model": call.model_served, "downgraded": str(call.downgraded).lower()},
        scopes={kind: key for kind, _, key in (scope.partition(":") for scope in call.scopes)},
        sums={
            "calls": int(ended),
            "refused": int(refused),
            "downgraded": int(ended and call.downgraded),
            "failed": int(ended and call.kind == "void"),
            "cost_nano": call.posted_nano,
            "saved_nano": 0 if refused else call.saved_nano,
            "avoided_nano": call.saved_nano if refused else 0,
            "unconfirmed_nano": call.posted_nano if expired else call.posted_nano - call.cost_nano if late else 0,
            "input_tokens": call.input_tokens + call.cached_input_tokens + call.cache_write_tokens,
            "output_tokens": call.output_tokens + call.reasoning_tokens,
            "latency_ms": call.latency_ms or 0,
            "timed": int(call.latency_ms is not None),
        },
    )
