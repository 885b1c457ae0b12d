"""What is written about an attempt into its hold and its event, from which cost records are made.

Amounts are text of integer nano-dollars. Holds no prompts, answers or keys.
"""

from typing import Any

import orjson

from gateway.call import Attempt, Call
from routing.model import Endpoint, Model
from telemetry.prices import Price
from telemetry.usage import EstimatedUsage, Usage

#: The outcome of an attempt whose client went away.
ABORTED = "aborted"


def hold_detail(call: Call, asked: str) -> bytes:
    """What an expiry can tell of a call whose worker died."""
    return _beginning(call) + orjson.dumps({"model_requested": asked})[1:]


def option_detail(model: Model, endpoint: Endpoint, price: Price, asked_price: Price | None) -> bytes:
    """What records say of a model that serves: the same for all its attempts.

    asked_price: of the model asked for, where this is another one.
    """
    fields = {
        "model_served": model.name,
        "model_owner": model.owned_by or None,
        "endpoint": model.endpoint,
        "provider": endpoint.provider,
        "price_version": price.version,
        "prices": orjson.Fragment(price.wire),
    }
    if asked_price is not None:
        fields["asked_prices"] = orjson.Fragment(asked_price.wire)
    return orjson.dumps(fields)[1:-1] + b","


def attempt_detail(
    call: Call, attempt: Attempt, usage: Usage | None, cost_nano: int, ended_ms: int, *, outcome: str
) -> bytes:
    """The whole story of an attempt. outcome: ``answered``, ``aborted``, or the kind of its failure.

    balances: how the accounts of the hold stood with it: spent, held, state, limit and hard cap.
    """
    admission = attempt.admission
    record: dict[str, Any] = {
        "model_requested": call.asked or admission.plan.candidates[0].model,
        "cost_nano": str(cost_nano),
        "held_nano": str(admission.hold.amount_nano),
        "ended_ms": ended_ms,
        "upstream_ms": round(attempt.upstream_s * 1000),
        "outcome": outcome,
        "why": attempt.why,
        "state": max([balance.state for _, balance in admission.watching]).label,
        "balances": [
            [b.spent_nano, b.held_nano, b.state.value, t.limit_nano, t.hard_nano] for t, b in admission.watching
        ],
    }
    if outcome == ABORTED:
        record["on_abort"] = attempt.endpoint.on_abort.value
    if attempt.dropped_tools:
        record["dropped_tools"] = attempt.dropped_tools
    if usage is not None:
        tokens = usage.tokens
        record["tokens"] = {
            "input": tokens.input,
            "cached_input": tokens.cached_input,
            "cache_write": tokens.cache_write,
            "output": tokens.output,
            "reasoning": tokens.reasoning,
        }
        if isinstance(usage, EstimatedUsage):
            record["estimated_because"] = usage.why
    return _beginning(call) + attempt.told + orjson.dumps(record)[1:]


def _beginning(call: Call) -> bytes:
    """What all records of a call begin with."""
    if not call.told:
        common = {
            "request_id": call.request_id,
            "surface": call.surface,
            "operation": call.operation,
            "stream": call.stream,
            "key_id": call.key_id,
            "scopes": call.chain.names,
            "started_ms": call.received_ms,
        }
        call.told = orjson.dumps(common)[:-1] + b","
    return call.told
