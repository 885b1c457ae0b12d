"""Budgets as JSON: what the API, the YAML file and Edge Config send, what is stored, what is shown."""

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic.alias_generators import to_camel

from budget.model import Budget, DowngradeRule, Policy, Reset, TopUp
from core.errors import InvalidInput
from core.money import MAX_LIMIT_NANO, format_usd, fraction_floor, parse_decimal, parse_usd_nano
from core.period import parse_cadence, parse_zone
from core.scope import parse_scope

#: Kind of the documents that hold budgets.
BUDGET_KIND = "budget"

_ID = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
#: Terms that are kept for budgets which differ in nothing but their id and scope.
_MOST_TERMS = 1024


def _decimal(value: object, info: ValidationInfo) -> Decimal:
    return parse_decimal(to_camel(info.field_name or "value"), value)


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class DowngradeSpec(_Wire):
    """While Degraded, calls for `from` (or ``*``) are served by `to`."""

    from_model: Annotated[str, Field(alias="from", min_length=1, max_length=256)]
    to_model: Annotated[str, Field(alias="to", min_length=1, max_length=256)]


class PolicySpec(_Wire):
    """How a budget acts; the caps are fractions of the limit."""

    soft_cap: Annotated[Decimal, BeforeValidator(_decimal), Field(gt=0, le=1)] = Decimal("0.8")
    hard_cap: Annotated[Decimal, BeforeValidator(_decimal), Field(ge=1, le=100)] = Decimal("1.2")
    downgrade: Annotated[list[DowngradeSpec], Field(max_length=100)] | None = None
    disabled_tools: Annotated[list[str], Field(max_length=1000)] = []
    allow_downgrade: bool = True
    allow_smaller_max_tokens: bool = True
    min_output_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256


class BudgetSpec(PolicySpec):
    """A budget as its owner writes it. `limitUsd` is dollars per period; money may be text or a number."""

    id: Annotated[str, Field(pattern=_ID)] | None = None
    scope_type: str
    scope_key: str
    limit_usd: Annotated[Decimal, BeforeValidator(_decimal)]
    cadence: str = "daily"
    time_zone: str = "UTC"
    paused: bool = False


class TopUpSpec(_Wire):
    """Extra money for the current period, until `expiresAt` (ISO 8601) or the period's end.

    scopeKey: for one key of a wildcard budget only.
    """

    amount_usd: Annotated[Decimal, BeforeValidator(_decimal)]
    reason: Annotated[str, Field(min_length=1, max_length=500)]
    scope_key: str | None = None
    expires_at: str | None = None


class ResetSpec(_Wire):
    """A fresh start within the current period, with the reason for the record."""

    reason: Annotated[str, Field(min_length=1, max_length=500)]
    scope_key: str | None = None


_SpecT = TypeVar("_SpecT", bound=BaseModel)


def parse_spec(model: type[_SpecT], data: object) -> _SpecT:
    """Validate outside data against one of the models above.

    Raises:
        InvalidInput: the first broken rule, with its field.
    """
    if not isinstance(data, Mapping):
        raise InvalidInput("body", "must be a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidInput(field, f"is not valid: {first['msg']}") from None
    except InvalidInput as error:
        raise InvalidInput(error.field, error.rule) from None


def budget_from_spec(spec: BudgetSpec, *, budget_id: str, source: str, now_ms: int) -> Budget:
    """A checked Budget.

    Raises:
        InvalidInput: names the field and the rule.
    """
    limit_nano = parse_usd_nano("limitUsd", spec.limit_usd)
    policy = policy_from_spec(spec)
    if fraction_floor(limit_nano, policy.hard_cap) > MAX_LIMIT_NANO:
        raise InvalidInput("limitUsd", f"times hardCap must be at most {format_usd(MAX_LIMIT_NANO)} USD")
    return Budget(
        id=budget_id,
        scope=parse_scope("scope", spec.scope_type, spec.scope_key, wildcard=True),
        limit_nano=limit_nano,
        cadence=parse_cadence("cadence", spec.cadence),
        zone=parse_zone("timeZone", spec.time_zone),
        policy=policy,
        paused=spec.paused,
        source=source,
        created_ms=now_ms,
        updated_ms=now_ms,
    )


def policy_from_spec(spec: PolicySpec) -> Policy:
    """A checked Policy."""
    rules = spec.downgrade
    return Policy(
        soft_cap=spec.soft_cap,
        hard_cap=spec.hard_cap,
        downgrade=None if rules is None else tuple(DowngradeRule(r.from_model, r.to_model) for r in rules),
        disabled_tools=tuple(spec.disabled_tools),
        allow_downgrade=spec.allow_downgrade,
        allow_smaller_max_tokens=spec.allow_smaller_max_tokens,
        min_output_tokens=spec.min_output_tokens,
    )


def spec_of(budget: Budget) -> dict[str, Any]:
    """The budget as its owner would write it; `BudgetSpec` reads it back unchanged."""
    policy = budget.policy
    rules = policy.downgrade
    return {
        "id": budget.id,
        "scopeType": budget.scope.type,
        "scopeKey": budget.scope.key,
        "limitUsd": format_usd(budget.limit_nano),
        "cadence": budget.cadence,
        "timeZone": budget.zone,
        "softCap": str(policy.soft_cap),
        "hardCap": str(policy.hard_cap),
        "downgrade": None if rules is None else [{"from": r.from_model, "to": r.to_model} for r in rules],
        "disabledTools": list(policy.disabled_tools),
        "allowDowngrade": policy.allow_downgrade,
        "allowSmallerMaxTokens": policy.allow_smaller_max_tokens,
        "minOutputTokens": policy.min_output_tokens,
        "paused": budget.paused,
    }


def dump_budget(budget: Budget) -> bytes:
    """The stored form of a budget."""
    return orjson.dumps(
        {
            "spec": spec_of(budget),
            "source": budget.source,
            "createdMs": budget.created_ms,
            "updatedMs": budget.updated_ms,
            "topUps": [
                {
                    "id": t.id,
                    "periodId": t.period_id,
                    "key": t.key,
                    "amountNano": t.amount_nano,
                    "expiresMs": t.expires_ms,
                    "reason": t.reason,
                    "atMs": t.at_ms,
                }
                for t in budget.top_ups
            ],
            "resets": [
                {"periodId": r.period_id, "key": r.key, "reason": r.reason, "atMs": r.at_ms} for r in budget.resets
            ],
        }
    )


def load_budget(text: bytes, *, revision: int) -> Budget:
    """The budget behind `dump_budget`'s text.

    Raises:
        InvalidInput: the text was not written by `dump_budget`.
    """
    try:
        return _read_budget(orjson.loads(text), revision)
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput("budget", f"was not stored by this program: {error}") from None


def _read_budget(data: Mapping[str, Any], revision: int) -> Budget:
    spec = data["spec"]
    if not re.fullmatch(_ID, spec["id"]):
        raise ValueError(f"{spec['id']!r} is no id")
    return replace(
        _terms(orjson.dumps(spec | {"id": None, "scopeKey": "*"}, option=orjson.OPT_SORT_KEYS)),
        id=spec["id"],
        scope=parse_scope("scope", spec["scopeType"], spec["scopeKey"], wildcard=True),
        source=data["source"],
        created_ms=data["createdMs"],
        updated_ms=data["updatedMs"],
        revision=revision,
        top_ups=tuple(
            TopUp(t["id"], t["periodId"], t["key"], t["amountNano"], t["expiresMs"], t["reason"], t["atMs"])
            for t in data["topUps"]
        ),
        resets=tuple(Reset(r["periodId"], r["key"], r["reason"], r["atMs"]) for r in data["resets"]),
    )


@lru_cache(_MOST_TERMS)
def _terms(spec: bytes) -> Budget:
    """What a spec says of a budget but for its id and its scope's key. A hundred thousand budgets have few such terms
    between them, and to read them is most of the work.
    """
    return budget_from_spec(parse_spec(BudgetSpec, orjson.loads(spec)), budget_id="", source="", now_ms=0)
