"""Budgets from outside the API: the environment, a YAML file, Vercel Edge Config.

They are written into the shared documents, so that every worker sees them, and each source owns what it wrote:
nothing here touches a budget of another source, and the API does not change one of these.

Failure policy: invalid content changes nothing. At the start it is a `ConfigError` that says where; while Edge
Config is polled it is a log line, and the budgets that are stored, the last good copy, serve on.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson
import yaml

from budget.codec import BUDGET_KIND, BudgetSpec, budget_from_spec, dump_budget, load_budget, parse_spec, spec_of
from budget.model import Budget
from budget.ports import Documents
from core.errors import ConfigError, Conflict, InvalidInput
from dashboard.specs import budget_slug, checked_total, without_past

log = logging.getLogger("spendgate.sources")

_SYNC_TRIES = 5
_ITEM_PREFIXES = ("budget_", "budget-")
_ENVIRONMENT_NAMES = {
    "limitUsd": "BUDGET_DEFAULT_LIMIT",
    "softCap": "BUDGET_SOFT_CAP",
    "hardCap": "BUDGET_HARD_CAP",
}


def default_budget(limit_usd: object, soft: object, hard: object, now_ms: int) -> Budget:
    """The daily budget of every agent, from the environment.

    limit_usd: dollars per day in UTC. soft, hard: fractions of the limit, such as 0.8 and 1.2.

    Raises:
        ConfigError: names the variable and the rule.
    """
    data = {"scopeType": "agent", "scopeKey": "*", "limitUsd": limit_usd, "softCap": soft, "hardCap": hard}
    try:
        spec = parse_spec(BudgetSpec, data)
        return budget_from_spec(spec, budget_id="default", source="env", now_ms=now_ms)
    except InvalidInput as error:
        raise ConfigError(f"{_ENVIRONMENT_NAMES.get(error.field, error.field)} {error.rule}") from None


def load_budgets_yaml(text: str, source: str) -> list[BudgetSpec]:
    """The budgets of a YAML file: ``budgets:``, a list of `BudgetSpec` in camelCase or snake_case.

    source: the file's name, for errors. An entry without id gets one from its scope and cadence.

    Raises:
        ConfigError: names the file, the entry, the field and the rule.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None
    if not isinstance(data, Mapping) or not isinstance(data.get("budgets"), list):
        raise ConfigError(f"{source}: budgets must be a list")
    others = sorted(str(name) for name in data if name != "budgets")
    if others:
        raise ConfigError(f"{source}: {others[0]} is not known; the file holds budgets only")
    entries = [(f"budgets[{number}]", None, entry) for number, entry in enumerate(data["budgets"])]
    return _read_entries(entries, source=source, prefix="yaml")


def budgets_of(specs: Sequence[BudgetSpec], *, source: str, now_ms: int) -> list[Budget]:
    """Checked specs, each with its id, as the budgets of a source (``yaml`` or ``edge``)."""
    return [budget_from_spec(spec, budget_id=spec.id or "", source=source, now_ms=now_ms) for spec in specs]


def budgets_from_items(answer: object, source: str) -> list[BudgetSpec]:
    """The budgets of an Edge Config, from what its ``/items`` answers.

    Edge Config's own address answers an object of key and value; Vercel's management API a list of
    ``{"key", "value", ...}``. The item ``budgets`` is a list of specs, or an object of id and spec; an item named
    ``budget_<id>`` or ``budget-<id>`` is one spec.

    Raises:
        ConfigError: names the item, the field and the rule. No budget item at all is an error too, so that a wrong
            or emptied Edge Config does not lift every limit; ``"budgets": []`` says that there are none.
    """
    items = _items(answer, source)
    entries: list[tuple[str, str | None, object]] = []
    found = False
    for name, value in items.items():
        if name == "budgets":
            entries += _listed(value, source)
        elif name.startswith(_ITEM_PREFIXES):
            entries.append((name, name[len(_ITEM_PREFIXES[0]) :], value))
        else:
            continue
        found = True
    if not found:
        raise ConfigError(f"{source} has no item budgets and none named budget_<id>")
    return _read_entries(entries, source=source, prefix="edge")


async def sync(documents: Documents, budgets: Sequence[Budget], source: str) -> int:
    """Make the stored budgets of `source` be `budgets`; returns how many were written or deleted.

    Only what differs is written; top-ups, resets and the time of creation stay. Any number of workers may do this
    at once.

    Raises:
        ConfigError: an id belongs to another source; nothing was written.
        Conflict: others kept changing these budgets.
        StoreUnavailable: the store is away; what was written before stays, the next sync goes on.
    """
    written = 0
    for _ in range(_SYNC_TRIES):
        stored = await _stored(documents, budgets, source)
        _refuse_foreign(budgets, stored, source)
        try:
            for budget_id, text, revision in _differences(budgets, stored, source):
                await documents.put(BUDGET_KIND, budget_id, text, expected=revision)
                written += 1
            return written
        except Conflict:
            continue  # another worker was faster: what it wrote is read now
    raise Conflict(f"the budgets of {source} keep being changed by others")


def _read_entries(entries: Sequence[tuple[str, str | None, object]], *, source: str, prefix: str) -> list[BudgetSpec]:
    """Entries of (place, id if the place gives one, content), each checked as a whole; ids are unique."""
    specs: dict[str, BudgetSpec] = {}
    for place, given_id, entry in entries:
        try:
            spec = _read_entry(entry, given_id, prefix)
        except InvalidInput as error:
            raise ConfigError(f"{source}: {place}.{error.field} {error.rule}") from None
        budget_id = spec.id or ""
        if budget_id in specs:
            raise ConfigError(f"{source}: {place}.id {budget_id} is taken by an earlier entry; give each its own")
        specs[budget_id] = spec
    return list(specs.values())


def _read_entry(entry: object, given_id: str | None, prefix: str) -> BudgetSpec:
    """A spec with its id, or InvalidInput."""
    if given_id is not None and isinstance(entry, Mapping):
        entry = {"id": given_id, **entry}
    spec = parse_spec(BudgetSpec, entry)
    checked = budget_from_spec(spec, budget_id="", source=prefix, now_ms=0)
    if spec.id:
        return spec
    return spec.model_copy(update={"id": f"{prefix}-{budget_slug(checked.scope, checked.cadence)}"})


def _items(answer: object, source: str) -> dict[str, object]:
    if isinstance(answer, Mapping):
        return {str(name): value for name, value in answer.items()}
    if isinstance(answer, list) and all(isinstance(i, Mapping) and "key" in i and "value" in i for i in answer):
        return {str(item["key"]): item["value"] for item in answer}
    raise ConfigError(f"{source} must be an object of items")


def _listed(value: object, source: str) -> list[tuple[str, str | None, object]]:
    if isinstance(value, list):
        return [(f"budgets[{number}]", None, entry) for number, entry in enumerate(value)]
    if isinstance(value, Mapping):
        return [(f"budgets.{budget_id}", str(budget_id), entry) for budget_id, entry in value.items()]
    raise ConfigError(f"{source}: budgets must be a list of budgets, or an object of id and budget")


async def _stored(documents: Documents, budgets: Sequence[Budget], source: str) -> dict[str, Budget]:
    """The stored budgets that have one of these ids, or are of this source; all others are left unread."""
    ids = {budget.id for budget in budgets}
    mark = orjson.dumps({"source": source})[1:-1]  # as `dump_budget` writes it; inside a text its quotes are escaped
    _, changes = await documents.changes_since(0)
    found = [c for c in changes if c.kind == BUDGET_KIND and c.text is not None and (c.id in ids or mark in c.text)]
    return {c.id: load_budget(c.text or b"", revision=c.version) for c in found}


def _refuse_foreign(budgets: Sequence[Budget], stored: Mapping[str, Budget], source: str) -> None:
    for budget in budgets:
        owner = stored[budget.id].source if budget.id in stored else source
        if owner != source:
            raise ConfigError(f"the budget {budget.id} of {source} exists already and belongs to {owner}; rename one")


def _differences(
    budgets: Sequence[Budget], stored: Mapping[str, Budget], source: str
) -> list[tuple[str, bytes | None, int]]:
    """(id, new text or None to delete, revision that is there) of what has to be written."""
    writes: list[tuple[str, bytes | None, int]] = []
    for budget in budgets:
        present = stored.get(budget.id)
        if present is None:
            writes.append((budget.id, dump_budget(budget), 0))
        elif spec_of(present) != spec_of(budget):
            writes.append((budget.id, dump_budget(_merged(present, budget)), present.revision))
    wanted = {budget.id for budget in budgets}
    gone = [b for b in stored.values() if b.source == source and b.id not in wanted]
    return writes + [(b.id, None, b.revision) for b in gone]


def _merged(present: Budget, wanted: Budget) -> Budget:
    kept = replace(wanted, top_ups=present.top_ups, resets=present.resets, created_ms=present.created_ms)
    try:
        return checked_total(without_past(kept, wanted.updated_ms), f"limitUsd of {wanted.id}")
    except InvalidInput as error:
        raise ConfigError(error.message) from None
