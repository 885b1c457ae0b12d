"""POST /api/simulate: a call that is not made, or the past under other limits, thresholds or models."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from budget.codec import parse_spec
from budget.dry_run import DryRun
from budget.model import UNAFFECTED
from budget.service import Admission, Refused
from core.clock import iso_utc
from core.errors import InvalidInput, NotFound
from core.scope import parse_scope_text
from dashboard.deps import Deps
from dashboard.wire import answer, documented_body, iso_or_none, read_json, usd

#: How large a request is taken to be of which only its tokens are known.
_BYTES_PER_TOKEN = 4


class _Spec(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class CallSpec(_Spec):
    """A call to try dry: who asks, for what. `requestBytes` is the size of its JSON, if that is known better than from
    the messages; `inputTokens` alone stands for four bytes each.
    """

    key_id: str | None = None
    scopes: Annotated[list[str], Field(max_length=32)] = []
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    input_tokens: Annotated[int, Field(ge=1, le=20_000_000)] | None = None
    request_bytes: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None


class SimulateSpec(_Spec):
    """What to simulate: one of these."""

    call: CallSpec | None = None


def router(deps: Deps) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["simulate"])

    async def simulate(request: Request) -> Response:
        """What would happen to a call now, without holding or spending anything. Money in dollars."""
        spec = parse_spec(SimulateSpec, await read_json(request))
        if spec.call is None:
            raise InvalidInput("call", "is required")
        return answer({"call": shown(await dry_run(deps, spec.call))})

    routes.add_api_route("/simulate", simulate, methods=["POST"], openapi_extra=documented_body(SimulateSpec))
    return routes


async def dry_run(deps: Deps, spec: CallSpec) -> DryRun:
    """Try a call dry.

    Raises:
        InvalidInput: names the field and the rule. NotFound: there is no such model, or no gateway here.
    """
    if deps.dry_runs is None:
        raise NotFound("no gateway is here to ask")
    body: dict[str, Any] = {"messages": spec.messages or [{"role": "user", "content": spec.prompt or ""}]}
    body |= {name: given for name in ("tools", "max_tokens", "n") if (given := getattr(spec, name)) is not None}
    size = spec.request_bytes or _BYTES_PER_TOKEN * (spec.input_tokens or 0)
    return await deps.dry_runs.dry_run(
        key_id=spec.key_id,
        scopes=[parse_scope_text("scopes", text) for text in spec.scopes],
        model=spec.model,
        body=body,
        raw_bytes=size or len(orjson.dumps({"model": spec.model} | body)),
    )


def shown(run: DryRun) -> dict[str, Any]:
    """A dry run as JSON; money in dollars."""
    plan = run.verdict.plan
    return {
        "at": iso_utc(run.at_ms),
        "outcome": run.outcome,
        "status": run.status,
        "code": run.code,
        "why": run.why,
        "modelRequested": run.model_requested,
        "modelServed": run.model_served,
        **_money(run.verdict),
        "droppedTools": list(run.dropped_tools),
        "openCircuits": list(run.skipped),
        "accounts": [account(run, number) for number in range(len(plan.accounts))],
        "candidates": [
            {"model": c.model, "ceiling": usd(c.ceiling_nano(c.tokens)), "maxTokens": c.tokens} for c in plan.candidates
        ],
        "assumptions": assumptions(run),
    }


def _money(verdict: Admission | Refused) -> dict[str, Any]:
    if isinstance(verdict, Refused):
        return {"ceiling": None, "needed": usd(verdict.refusal.needed_nano), "maxTokens": None}
    return {"ceiling": usd(verdict.hold.amount_nano), "needed": None, "maxTokens": verdict.hold.tokens}


def account(run: DryRun, number: int) -> dict[str, Any]:
    """An account of a dry run, before the call."""
    terms, verdict = run.verdict.plan.accounts[number], run.verdict
    if isinstance(verdict, Refused):
        balance, watches, own_nano = verdict.refusal.balances[number], True, 0
    else:
        balance, watches = verdict.hold.balances[number], verdict.candidate.watched[number] != UNAFFECTED
        own_nano = verdict.hold.amount_nano if watches else 0
    held_nano = balance.held_nano - own_nano
    return {
        "scope": str(terms.scope),
        "budgetId": terms.budget.id,
        "account": terms.id,
        "decides": number == run.decides,
        "watches": watches,
        "state": balance.state.label,
        "spent": usd(balance.spent_nano),
        "held": usd(held_nano),
        "limit": usd(terms.limit_nano),
        "hardLimit": usd(terms.hard_nano),
        "left": usd(max(0, terms.hard_nano - balance.spent_nano - held_nano)),
        "periodEnd": iso_or_none(terms.period.end_ms),
    }


def assumptions(run: DryRun) -> list[str]:
    """What a dry run is true under."""
    found = [
        "The accounts are as they were at that moment; calls that come before the real one change them.",
        f"The request is {run.raw_bytes:,} bytes of JSON; a call holds for as many tokens of input as it has bytes.",
    ]
    return [*found, f"Left out, as their circuit is open here: {', '.join(run.skipped)}."] if run.skipped else found
