"""What is written about an attempt into its hold and its event, from which cost records are made.

Amounts are text of integer nano-dollars. Holds no prompts, answers or keys.
"""

from functools import lru_cache

import orjson

from budget.model import BudgetState
from gateway.call import Attempt, Call
from routing.model import Endpoint, Model
from telemetry.prices import Price
from telemetry.usage import EstimatedUsage, Usage

#: The outcome of an attempt whose client went away.
ABORTED = "aborted"


def hold_detail(call: Call, asked: str) -> bytes:
    """What an expiry can tell of a call whose worker died."""
    return f'{_beginning(call)}"model_requested":{_json(asked)}}}'.encode()


def option_detail(model: Model, endpoint: Endpoint, price: Price, asked_price: Price | None) -> str:
    """What records say of a model that serves: the same for all its attempts.

    asked_price: of the model asked for, where this is another one.
    """
    fields = {
        "model_served": model.name,
        "endpoint": model.endpoint,
        "provider": endpoint.provider,
        "model_owner": model.owned_by or None,
        "price_version": price.version,
        "prices": orjson.Fragment(price.wire),
    }
    if asked_price is not None:
        fields["asked_prices"] = orjson.Fragment(asked_price.wire)
    return orjson.dumps(fields)[1:-1].decode()


def attempt_detail(
    call: Call, attempt: Attempt, usage: Usage | None, cost_nano: int, ended_ms: int, *, outcome: str
) -> bytes:
    """The whole story of an attempt. outcome: ``answered``, ``aborted``, or the kind of its failure.

    balances: how the accounts of the hold stood with it: spent, held, state, limit and hard cap.
    """
    admission = attempt.admission
    worst, balances = BudgetState.ACTIVE, []
    for terms, b in admission.watching:
        worst = max(worst, b.state)
        balances.append(f"[{b.spent_nano},{b.held_nano},{b.state:d},{terms.limit_nano},{terms.hard_nano}]")
    # By hand, for every call has it: as a dictionary and with a library it takes four times as long.
    text = (
        f'{_beginning(call)}"model_requested":{_json(call.asked or admission.plan.candidates[0].model)},{attempt.told},'
        f'"cost_nano":"{cost_nano}","held_nano":"{admission.hold.amount_nano}","ended_ms":{ended_ms},'
        f'"upstream_ms":{attempt.upstream_s * 1000:.0f},"outcome":{_json(outcome)},'
        f'"why":{"null" if attempt.why is None else _json(attempt.why)},"state":"{worst.label}",'
        f'"balances":[{",".join(balances)}]'
    )
    if outcome == ABORTED:
        text += f',"on_abort":{_json(attempt.endpoint.on_abort.value)}'
    if attempt.dropped_tools:
        text += f',"dropped_tools":{orjson.dumps(attempt.dropped_tools).decode()}'
    if usage is not None:
        tokens = usage.tokens
        text += (
            f',"tokens":{{"input":{tokens.input},"cached_input":{tokens.cached_input},'
            f'"cache_write":{tokens.cache_write},"output":{tokens.output},"reasoning":{tokens.reasoning}}}'
        )
        if isinstance(usage, EstimatedUsage):
            text += f',"estimated_because":{_json(usage.why)}'
    return (text + "}").encode()


def _beginning(call: Call) -> str:
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
        call.told = orjson.dumps(common)[:-1].decode() + ","
    return call.told


@lru_cache(4096)
def _json(text: str) -> str:
    return orjson.dumps(text).decode()
