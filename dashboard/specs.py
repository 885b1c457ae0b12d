"""Pure changes of a budget: checked input to a new `Budget`. No clock, no store."""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from pydantic.alias_generators import to_camel

from budget.codec import BudgetSpec, ResetSpec, TopUpSpec, budget_from_spec, parse_spec, spec_of
from budget.model import Budget, Reset, TopUp
from core.errors import InvalidInput, NotFound
from core.money import MAX_LIMIT_NANO, format_usd, fraction_floor, parse_usd_nano
from core.period import period_at
from core.scope import WILDCARD, Scope, parse_scope
from routing.model import Routes

_FAR_FUTURE_MS = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000
#: Workers whose clocks are a little behind still need what belongs to the period that has just ended.
_GRACE_MS = 60_000
_SLUG_CHARS = 58  # leaves room for a number within the 64 characters of an id


def camel_keys(data: object) -> dict[str, object]:
    """A JSON object with camelCase field names; snake_case is taken too.

    Raises:
        InvalidInput: it is no object.
    """
    if not isinstance(data, Mapping):
        raise InvalidInput("body", "must be a JSON object")
    return {name if "_" not in str(name) else to_camel(str(name)): value for name, value in data.items()}


def instant_ms(field: str, text: str) -> int:
    """Epoch milliseconds of ISO 8601 with a zone.

    Raises:
        InvalidInput: it is not.
    """
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is None:
            raise ValueError
        return int(instant.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise InvalidInput(field, "must be ISO 8601 with a zone, such as 2026-01-31T18:00:00Z") from None


def budget_slug(scope: Scope, cadence: str) -> str:
    """An id made from what a budget is: ``agent-all-daily``, ``team-ml-research-monthly``."""
    key = "all" if scope.key == WILDCARD else scope.key
    slug = re.sub(r"[^a-z0-9_.]+", "-", f"{key}-{cadence}".lower()).strip("-_.")
    return f"{scope.type}-{slug}"[:_SLUG_CHARS].rstrip("-")


def changed_budget(budget: Budget, data: object, *, partial: bool, now_ms: int) -> Budget:
    """The budget as `data` (a `BudgetSpec`, or part of one) has it; top-ups, resets and origin stay.

    Raises:
        InvalidInput: names the field and the rule.
    """
    given = camel_keys(data)
    spec = parse_spec(BudgetSpec, {**spec_of(budget), **given} if partial else given)
    if spec.id not in (None, budget.id):
        raise InvalidInput("id", f"can't be changed; this budget is {budget.id}")
    if spec.scope_type != budget.scope.type:
        # The key of an account has no type: what agent x spent would become what user x spent.
        raise InvalidInput("scopeType", "can't be changed; create another budget and delete this one")
    fresh = budget_from_spec(spec, budget_id=budget.id, source=budget.source, now_ms=now_ms)
    kept = replace(fresh, top_ups=budget.top_ups, resets=budget.resets, created_ms=budget.created_ms)
    return without_past(kept, now_ms)


def with_top_up(budget: Budget, spec: TopUpSpec, *, top_up_id: str, now_ms: int) -> Budget:
    """The budget with extra limit for its current period. The same id again changes nothing.

    Raises:
        InvalidInput: names the field and the rule.
    """
    if any(t.id == top_up_id for t in budget.top_ups):
        return budget
    period = period_at(budget.cadence, budget.zone, now_ms)
    end_ms = _FAR_FUTURE_MS if period.end_ms is None else period.end_ms
    expires_ms = end_ms if spec.expires_at is None else instant_ms("expiresAt", spec.expires_at)
    if expires_ms <= now_ms:
        raise InvalidInput("expiresAt", "must be in the future")
    top_up = TopUp(
        id=top_up_id,
        period_id=period.id,
        key=_key_of(budget, spec.scope_key),
        amount_nano=parse_usd_nano("amountUsd", spec.amount_usd, minimum_nano=1),
        expires_ms=min(expires_ms, end_ms),
        reason=spec.reason,
        at_ms=now_ms,
    )
    topped = replace(budget, top_ups=(*budget.top_ups, top_up), updated_ms=now_ms)
    return checked_total(without_past(topped, now_ms), "amountUsd")


def with_reset(budget: Budget, spec: ResetSpec, *, now_ms: int) -> Budget:
    """The budget with a fresh start within its current period.

    Raises:
        InvalidInput: names the field and the rule.
    """
    period = period_at(budget.cadence, budget.zone, now_ms)
    reset = Reset(period.id, _key_of(budget, spec.scope_key), spec.reason, now_ms)
    return without_past(replace(budget, resets=(*budget.resets, reset), updated_ms=now_ms), now_ms)


def without_past(budget: Budget, now_ms: int) -> Budget:
    """The budget without top-ups and resets that no longer have an effect; the event stream remembers them."""
    instants = (now_ms, now_ms - _GRACE_MS)
    periods = {period_at(budget.cadence, budget.zone, at_ms).id for at_ms in instants}
    return replace(
        budget,
        top_ups=tuple(t for t in budget.top_ups if t.period_id in periods and t.expires_ms > now_ms - _GRACE_MS),
        resets=tuple(r for r in budget.resets if r.period_id in periods),
    )


def checked_total(budget: Budget, field: str) -> Budget:
    """The same budget, if its limit with all top-ups can still be counted exactly.

    Raises:
        InvalidInput: names `field`.
    """
    limit_nano = budget.limit_nano + sum(t.amount_nano for t in budget.top_ups)
    if fraction_floor(limit_nano, budget.policy.hard_cap) > MAX_LIMIT_NANO:
        most = format_usd(MAX_LIMIT_NANO)
        raise InvalidInput(field, f"with all top-ups, times hardCap, must be at most {most} USD")
    return budget


def check_models(budget: Budget, routes: Routes) -> None:
    """Downgrade rules must name models of the routes.

    Raises:
        InvalidInput: names the rule's field.
    """
    for number, rule in enumerate(budget.policy.downgrade or ()):
        check_model(routes, f"downgrade.{number}", rule.from_model, rule.to_model)


def check_model(routes: Routes, field: str, from_model: str, to_model: str) -> None:
    """Both models of a rule must be of the routes; ``*`` is any.

    Raises:
        InvalidInput: names the side of the field.
    """
    names = {"to": to_model} if from_model == WILDCARD else {"from": from_model, "to": to_model}
    for side, name in names.items():
        try:
            routes.find(name)
        except NotFound as error:
            raise InvalidInput(f"{field}.{side}", f"is not usable: {error.message}") from None


def _key_of(budget: Budget, scope_key: str | None) -> str | None:
    """The one key that a top-up or reset is for; None: each key of the budget."""
    if scope_key is None:
        return None
    key = parse_scope("scope", budget.scope.type, scope_key).key
    if not budget.scope.is_wildcard and key != budget.scope.key:
        raise InvalidInput("scopeKey", f"must be {budget.scope.key}, the key of this budget, or be left out")
    return key
