"""The page of what-if: a call that is not made, and the past under another budget.

Both are asked with a form of the page, though neither changes anything: a replay is work, and nobody else's page is to
set it off.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response

from budget.codec import parse_spec, spec_of
from budget.dry_run import DryRun
from budget.model import Budget
from core.errors import InvalidInput, SpendgateError
from core.money import NANO_PER_USD
from core.scope import parse_scope_text
from dashboard.budget_form import rules_of, rules_text
from dashboard.budget_pages import Handler, Shower
from dashboard.deps import Deps
from dashboard.formats import for_script, local
from dashboard.replay import ASSUMPTIONS
from dashboard.simulate import CallSpec, ReplaySpec, assumptions, before, dry_run, replay_ask, replayed
from dashboard.what_if import Replay, ReplayAsk

_CALL = ("scopes", "keyId", "model", "prompt", "inputTokens", "maxTokens")
_TERMS = ("limitUsd", "softCap", "hardCap", "cadence", "timeZone")
_REPLAY = ("budgetId", "scope", *_TERMS, "downgrade", "models", "days")
_EMPTY = dict.fromkeys((*_CALL, *_REPLAY), "") | {"maxTokens": "1000", "inputTokens": "500", "days": "7"}


@dataclass(slots=True)
class _Shown:
    """What the page shows. run, replay: an answer. wrong: the form whose input has an error, ``call`` or ``replay``."""

    given: dict[str, str]
    run: DryRun | None = None
    replay: tuple[ReplayAsk, Replay] | None = None
    wrong: str = ""
    error: SpendgateError | None = None

    def is_wrong(self, form: str, name: str) -> bool:
        """Whether the error is about this field."""
        if self.wrong != form or not isinstance(self.error, InvalidInput):
            return False
        return self.error.field.removeprefix("replay.").split(".")[0] == name


class WhatIfPages:
    """The handlers."""

    def __init__(self, pages: Shower, deps: Deps) -> None:
        self._pages = pages
        self._deps = deps

    async def empty(self, request: Request) -> Response:
        """Both forms, filled in for the budget or the scope that the URL names."""
        await self._deps.refresh()
        query, given = request.query_params, dict(_EMPTY)
        if "scope" in query:
            given |= self._of_scope(query["scope"])
        if "budget" in query:
            given |= _of_budget(self._deps.book.get(query["budget"]))
        return self._show(request, _Shown(given))

    async def ask(self, request: Request) -> Response:
        """An answer to one of the forms."""
        form = await self._pages.posted(request)
        shown = _Shown({name: form.get(name, empty).strip() for name, empty in _EMPTY.items()})
        asked = "replay" if form.get("ask") == "replay" else "call"
        try:
            if asked == "call":
                shown.run = await dry_run(self._deps, parse_spec(CallSpec, _call(shown.given)))
            else:
                ask = await replay_ask(self._deps, parse_spec(ReplaySpec, _replay(shown.given)))
                shown.replay = ask, await replayed(self._deps, ask)
        except SpendgateError as error:
            shown.wrong, shown.error = asked, error
        return self._show(request, shown)

    def _of_scope(self, text: str) -> dict[str, str]:
        """The call form for a scope, and the replay form for its own budget, or for one like it."""
        scope = parse_scope_text("scope", text)
        found: list[Budget] = self._deps.book.for_scope(scope)
        given = {"scopes": str(scope), "scope": str(scope)}
        if not found:
            return given | {"limitUsd": "10", "cadence": "daily", "timeZone": "UTC"}
        terms = _of_budget(found[0])
        return given | (terms if not found[0].scope.is_wildcard else terms | {"budgetId": "", "scope": str(scope)})

    def _show(self, request: Request, shown: _Shown) -> Response:
        status = shown.error.status if shown.error else 200
        run, replay = shown.run, shown.replay
        return self._pages.show(
            request,
            "what_if.html",
            status,
            shown=shown,
            call_fields=_CALL,
            replay_fields=_REPLAY,
            budgets=self._deps.book.all(),
            models=[model for model in self._deps.routes.models if model.kind == "chat"],
            keys=self._deps.keys.all(),
            accounts=[(terms, before(run, n)) for n, terms in enumerate(run.verdict.plan.accounts)] if run else [],
            assumptions=assumptions(run) if run else ASSUMPTIONS,
            chart=_chart(*replay) if replay else "",
        )


def what_if_pages(pages: Shower, deps: Deps) -> Iterable[tuple[str, str, Handler]]:
    """Method, path and handler of each page."""
    view = WhatIfPages(pages, deps)
    yield "GET", "/ui/what-if", view.empty
    yield "POST", "/ui/what-if", view.ask


def _of_budget(budget: Budget) -> dict[str, str]:
    """The replay form for a budget as it is."""
    spec = spec_of(budget)
    told = {"budgetId": budget.id, "scope": "", "downgrade": rules_text(spec["downgrade"])}
    return {name: str(spec[name]) for name in _TERMS} | told


def _call(given: dict[str, str]) -> dict[str, Any]:
    """A `CallSpec` of the form."""
    spec: dict[str, Any] = {name: given[name] for name in _CALL if given[name]}
    if given["prompt"]:
        spec.pop("inputTokens", None)
    return spec | {"scopes": [text.strip() for text in given["scopes"].split(",") if text.strip()]}


def _replay(given: dict[str, str]) -> dict[str, Any]:
    """A `ReplaySpec` of the form."""
    terms: dict[str, Any] = {name: given[name] for name in _TERMS if given[name]}
    if given["downgrade"]:
        terms["downgrade"] = rules_of("downgrade", given["downgrade"])
    spec: dict[str, Any] = {"models": rules_of("models", given["models"]) or []} | ({"days": given["days"] or 7})
    if bool(given["budgetId"]) == bool(given["scope"]):
        raise InvalidInput("budgetId", "or the scope of a new one is required, and not both")
    if given["budgetId"]:
        return spec | {"budgetId": given["budgetId"], "changes": terms}
    kind, _, key = given["scope"].partition(":")
    return spec | {"budget": terms | {"scopeType": kind, "scopeKey": key}}


def _chart(ask: ReplayAsk, found: Replay) -> str:
    """Spend by day, in dollars for drawing alone, as JSON for a script element."""
    chart = {
        "labels": [local(day.start_ms, ask.budget.zone, time=False) for day in found.days],
        "series": [
            {"name": "as it was", "usd": [day.actual.spent_nano / NANO_PER_USD for day in found.days]},
            {"name": "as it would have been", "usd": [day.simulated.spent_nano / NANO_PER_USD for day in found.days]},
        ],
    }
    return for_script(chart)
