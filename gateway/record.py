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
    record = _common(call)
    record["model_requested"] = asked
    return orjson.dumps(record)


def attempt_detail(
    call: Call, attempt: Attempt, usage: Usage | None, cost_nano: int, ended_ms: int, *, outcome: str
) -> bytes:
    """The whole story of an attempt. outcome: ``answered``, ``aborted``, or the kind of its failure.

    balances: how the accounts of the hold stood with it: spent, held, state, limit and hard cap.
    """
    admission = attempt.admission
    record = _common(call)
    record["model_requested"] = call.asked or admission.plan.candidates[0].model
    record["model_served"] = attempt.model.name
    record["endpoint"] = attempt.model.endpoint
    record["provider"] = attempt.provider
    record["price_version"] = attempt.price.version
    record["prices"] = orjson.Fragment(attempt.price.wire)
    if attempt.asked_price is not None:
        record["asked_prices"] = orjson.Fragment(attempt.asked_price.wire)
    record["cost_nano"] = str(cost_nano)
    record["held_nano"] = str(admission.hold.amount_nano)
    record["ended_ms"] = ended_ms
    record["upstream_ms"] = round(attempt.upstream_s * 1000)
    record["outcome"] = outcome
    record["why"] = attempt.why
    record["state"] = max([balance.state for _, balance in admission.watching]).label
    record["balances"] = [
        [b.spent_nano, b.held_nano, b.state.value, t.limit_nano, t.hard_nano] for t, b in admission.watching
    ]
    if outcome == ABORTED:
        record["on_abort"] = attempt.on_abort.value
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
    return orjson.dumps(record)


def _common(call: Call) -> dict[str, Any]:
    return {
        "request_id": call.request_id,
        "surface": call.surface,
        "operation": call.operation,
        "stream": call.stream,
        "key_id": call.key_id,
        "scopes": call.chain.names,
        "started_ms": call.received_ms,
    }
