"""A budget as a form has it: every field is text. Empty is the default, where there is one."""

from typing import Any

from budget.codec import spec_of
from budget.model import Budget
from core.errors import InvalidInput

_TERMS = ("scopeType", "scopeKey", "limitUsd", "cadence", "timeZone", "softCap", "hardCap")
#: Fields of the form; the last two are lists, with commas.
FIELDS = (*_TERMS, "downgrade", "disabledTools")
#: What a form for a new budget begins with.
NEW = dict(zip(FIELDS, ("agent", "", "", "daily", "UTC", "0.8", "1.2", "", ""), strict=True))


def filled(form: dict[str, str]) -> dict[str, Any]:
    """A `BudgetSpec`, or part of one, of the form. An empty list is none; no rules are those of the routes.

    Raises:
        InvalidInput: rules that are no rules.
    """
    given: dict[str, Any] = {name: form[name].strip() for name in _TERMS if form.get(name, "").strip()}
    if "downgrade" in form:
        given["downgrade"] = rules_of("downgrade", form["downgrade"])
    if "disabledTools" in form:
        given["disabledTools"] = [name.strip() for name in form["disabledTools"].split(",") if name.strip()]
    return given


def given_of(budget: Budget) -> dict[str, str]:
    """The form of a budget as it is."""
    spec = spec_of(budget)
    given = {name: str(spec[name]) for name in _TERMS}
    return given | {"downgrade": rules_text(spec["downgrade"]), "disabledTools": ", ".join(spec["disabledTools"])}


def rules_of(field: str, text: str) -> list[dict[str, str]] | None:
    """``dbrx=mixtral, *=llama`` as rules; ``none``: no rule; nothing: None.

    Raises:
        InvalidInput: it has another shape.
    """
    if text.strip() in ("", "none"):
        return [] if text.strip() else None
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    if any(not separator for _, separator, _ in pairs):
        raise InvalidInput(field, "must look like dbrx=mixtral, with a comma between two")
    return [{"from": name.strip(), "to": to.strip()} for name, _, to in pairs]


def rules_text(rules: list[dict[str, str]] | None) -> str:
    """The same as text."""
    if rules is None:
        return ""
    return ", ".join(f"{rule['from']}={rule['to']}" for rule in rules) or "none"
