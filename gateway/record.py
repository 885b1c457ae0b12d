"""What is written about an attempt into its hold and its event, from which cost records are made.

Amounts are text of integer nano-dollars. Holds no prompts, answers or keys.
"""

from typing import Any

import orjson

from gateway.call import Attempt, Call
from telemetry.usage import EstimatedUsage, Usage

#: The outcome of an attempt whose client went away.
ABORTED = "aborted"


def hold_detail(call: Call, asked: str) -> bytes:
    """What an expiry can tell of a call whose worker died."""
    return _joined(call, {"model_requested": asked})


def attempt_detail(
    call: Call, attempt: Attempt, usage: Usage | None, cost_nano: int, ended_ms: int, *, outcome: str
) -> bytes:
    """The whole story of an attempt. outcome: ``answered``, ``aborted``, or the kind of its failure.

    balances: how the accounts of the hold stood with it: spent, held, state, limit and hard cap.
    """
    admission = attempt.admission
    record: dict[str, Any] = {
        "model_requested": call.asked or admission.plan.candidates[0].model,
        "model_served": attempt.model.name,
        "endpoint": attempt.model.endpoint,
        "provider": attempt.endpoint.provider,
        "price_version": attempt.price.version,
        "prices": orjson.Fragment(attempt.price.wire),
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
    if attempt.asked_price is not None:
        record["asked_prices"] = orjson.Fragment(attempt.asked_price.wire)
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
    return _joined(call, record)


def _joined(call: Call, record: dict[str, Any]) -> bytes:
    """What is said of the call and what is said here, as one object. The first is the same in all records of a call."""
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
    return call.told + orjson.dumps(record)[1:]
