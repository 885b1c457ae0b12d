"""POST /api/simulate: a call that is not made, or the past under other limits, thresholds or models."""

from dataclasses import replace
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from budget.codec import BudgetSpec, DowngradeSpec, budget_from_spec, parse_spec, spec_of
from budget.dry_run import DryRun
from budget.model import UNAFFECTED, Balance, Budget
from budget.service import Admission, Refused
from core.clock import iso_utc
from core.errors import InvalidInput, NotFound
from core.period import period_at
from core.scope import parse_scope_text
from dashboard.deps import Deps
from dashboard.replay import ASSUMPTIONS
from dashboard.specs import changed_budget, check_model, check_models
from dashboard.what_if import Replay, ReplayAsk, Tally
from dashboard.wire import answer, documented_body, iso_or_none, read_json, usd
from ledger.errors import LedgerUnavailable
from ledger.ports import Interval

#: How large a request is taken to be of which only its tokens are known.
_BYTES_PER_TOKEN = 4
_MOST_DAYS = 366


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


class ReplaySpec(_Spec):
    """The past under another budget: one that there is, with changes (fields of a budget), or one that there is not.

    The last `days` in the budget's time zone, today among them, or `from` (and `to`): days, or instants with a zone.
    `models`: calls for `from` (or ``*``) ask for `to` instead. No more is read after `maxSeconds`.
    """

    budget_id: str | None = None
    changes: dict[str, Any] = {}
    budget: dict[str, Any] | None = None
    days: Annotated[int, Field(ge=1, le=_MOST_DAYS)] = 7
    start: Annotated[str | None, Field(alias="from")] = None
    end: Annotated[str | None, Field(alias="to")] = None
    models: Annotated[list[DowngradeSpec], Field(max_length=100)] = []
    max_seconds: Annotated[int, Field(ge=1, le=600)] = 50


class SimulateSpec(_Spec):
    """What to simulate: one of these."""

    call: CallSpec | None = None
    replay: ReplaySpec | None = None


def router(deps: Deps) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["simulate"])

    async def simulate(request: Request) -> Response:
        """What would happen to a call now, without holding or spending anything; or what the past would have been
        under another budget. Money in dollars.
        """
        spec = parse_spec(SimulateSpec, await read_json(request))
        if (spec.call is None) == (spec.replay is None):
            raise InvalidInput("call", "or replay is required, and not both")
        if spec.call is not None:
            return answer({"call": shown(await dry_run(deps, spec.call))})
        assert spec.replay is not None
        ask = await replay_ask(deps, spec.replay)
        return answer({"replay": shown_replay(ask, await replayed(deps, ask))})

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


def before(run: DryRun, number: int) -> Balance:
    """How an account of a dry run stands, without the call."""
    verdict = run.verdict
    if isinstance(verdict, Refused):
        return verdict.refusal.balances[number]
    after, watches = verdict.hold.balances[number], verdict.candidate.watched[number] != UNAFFECTED
    return replace(after, held_nano=after.held_nano - verdict.hold.amount_nano) if watches else after


def account(run: DryRun, number: int) -> dict[str, Any]:
    """An account of a dry run, without the call."""
    terms, balance = run.verdict.plan.accounts[number], before(run, number)
    return {
        "scope": str(terms.scope),
        "budgetId": terms.budget.id,
        "account": terms.id,
        "decides": number == run.decides,
        "state": balance.state.label,
        "spent": usd(balance.spent_nano),
        "held": usd(balance.held_nano),
        "limit": usd(terms.limit_nano),
        "hardLimit": usd(terms.hard_nano),
        "left": usd(max(0, terms.hard_nano - balance.spent_nano - balance.held_nano)),
        "periodEnd": iso_or_none(terms.period.end_ms),
    }


def assumptions(run: DryRun) -> list[str]:
    """What a dry run is true under."""
    found = [
        "The accounts are as they were at that moment; calls that come before the real one change them.",
        f"The request is {run.raw_bytes:,} bytes of JSON; a call holds for as many tokens of input as it has bytes.",
    ]
    return [*found, f"Left out, as their circuit is open here: {', '.join(run.skipped)}."] if run.skipped else found


async def replay_ask(deps: Deps, spec: ReplaySpec) -> ReplayAsk:
    """What to replay.

    Raises:
        InvalidInput: names the field and the rule. NotFound: there is no such budget.
    """
    await deps.refresh()
    now_ms = deps.clock.now_ms()
    if (spec.budget_id is None) == (spec.budget is None):
        raise InvalidInput("replay.budgetId", "or budget is required, and not both")
    if spec.budget is not None:
        was = None
        budget = budget_from_spec(parse_spec(BudgetSpec, spec.budget), budget_id="new", source="api", now_ms=now_ms)
    else:
        was = deps.book.get(spec.budget_id or "")
        budget = changed_budget(was, spec.changes, partial=True, now_ms=now_ms)
    check_models(budget, deps.routes)
    for number, rule in enumerate(spec.models):
        check_model(deps.routes, f"replay.models.{number}", rule.from_model, rule.to_model)
    return ReplayAsk(
        budget=replace(budget, paused=False, resets=()),
        was=was and replace(was, resets=()),
        interval=_interval(spec, budget.zone, now_ms),
        models=tuple((rule.from_model, rule.to_model) for rule in spec.models),
        exempt=_exempt(deps, budget),
        most_s=float(spec.max_seconds),
    )


async def replayed(deps: Deps, ask: ReplayAsk) -> Replay:
    """Replay the past.

    Raises:
        LedgerUnavailable: there is no ledger, or it can't be read.
    """
    if deps.replays is None:
        raise LedgerUnavailable("the ledger is switched off (SPENDGATE_LEDGER)")
    return await deps.replays.replay(ask)


def shown_replay(ask: ReplayAsk, found: Replay) -> dict[str, Any]:
    """A replay as JSON; money in dollars."""
    return {
        "budget": spec_of(ask.budget),
        "against": spec_of(ask.was) if ask.was else None,
        "models": [{"from": name, "to": to} for name, to in ask.models],
        "from": iso_utc(ask.interval.start_ms),
        "to": iso_utc(ask.interval.end_ms),
        "timeZone": ask.budget.zone,
        "days": [{"from": iso_utc(day.start_ms), **_compared(day.actual, day.simulated)} for day in found.days],
        "total": _compared(found.actual, found.simulated),
        "refusedCost": usd(found.refused_cost_nano),
        "letThrough": found.let_through,
        "notJudged": found.unjudged,
        "withoutTokens": found.unpriced,
        "rowsRead": found.read,
        "complete": found.until_ms is None,
        "knownUntil": iso_or_none(found.until_ms),
        "tookMs": found.took_ms,
        "assumptions": list(ASSUMPTIONS),
    }


def _compared(actual: Tally, simulated: Tally) -> dict[str, Any]:
    saved_nano = actual.spent_nano - simulated.spent_nano
    return {"actual": _tally(actual), "simulated": _tally(simulated), "saved": usd(saved_nano)}


def _tally(tally: Tally) -> dict[str, Any]:
    return {
        "spent": usd(tally.spent_nano),
        "calls": tally.calls,
        "downgraded": tally.downgraded,
        "refused": tally.refused,
    }


def _interval(spec: ReplaySpec, zone: str, now_ms: int) -> Interval:
    end_ms = now_ms + 1 if spec.end is None else _instant_ms("replay.to", spec.end, zone)
    if spec.start is not None:
        start_ms = _instant_ms("replay.from", spec.start, zone)
    else:
        today = datetime.fromtimestamp((end_ms - 1) / 1000, ZoneInfo(zone)).date()
        start_ms = _instant_ms("replay.days", str(today - timedelta(days=spec.days - 1)), zone)
    if not start_ms < end_ms <= start_ms + (_MOST_DAYS + 1) * 86_400_000:
        raise InvalidInput("replay.from", f"must be before to, by at most {_MOST_DAYS} days")
    return Interval(start_ms, end_ms)


def _instant_ms(field: str, text: str, zone: str) -> int:
    """A day, which begins in the zone, or an instant with a zone of its own."""
    try:
        if len(text) == len("2026-01-31"):
            return period_at("daily", zone, _noon_ms(date.fromisoformat(text), zone)).start_ms
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError
        return int(instant.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidInput(field, "must be a day, or ISO 8601 with a zone, such as 2026-01-31T18:00:00Z") from None


def _noon_ms(day: date, zone: str) -> int:
    """An instant that is in that day whatever the clocks do."""
    return int(datetime.combine(day, time(12), ZoneInfo(zone)).timestamp() * 1000)


def _exempt(deps: Deps, budget: Budget) -> tuple[str, ...]:
    """Keys that a wildcard budget leaves to a budget of their own and the same cadence."""
    if not budget.scope.is_wildcard:
        return ()
    own = (b for b in deps.book.all() if not b.scope.is_wildcard and not b.paused)
    return tuple(b.scope.key for b in own if b.scope.type == budget.scope.type and b.cadence == budget.cadence)
