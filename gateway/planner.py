"""From a call to what the budgets decide on: its accounts and its candidates with their ceilings. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from budget.book import BudgetBook
from budget.model import EVEN_WHEN_DEGRADED, NOT_WHEN_DEGRADED, UNAFFECTED, AccountTerms, Candidate
from budget.service import Plan
from core.errors import InvalidInput, SpendgateError
from core.scope import Scope
from gateway.bounds import Bounds, input_tokens_bound, read_bounds
from gateway.call import Call
from gateway.fields import check_fields
from routing.chooser import Chooser, Rules, default_rules
from routing.health import Health
from routing.model import Model, Routes
from telemetry.prices import PriceBook, UnpricedModel
from telemetry.pricing import ceiling


class NoUpstream(SpendgateError):
    """Every model that could serve the call is switched off by its circuit."""

    status = 503
    code = "upstream_unavailable"
    retry_after_s = 5


@dataclass(frozen=True, slots=True)
class _Watched:
    """An account of the call.

    rule_set: index of its budget's downgrade rules; None: a budget on a model that is itself a downgrade.
    model: set where it watches that model only.
    """

    terms: AccountTerms
    rule_set: int | None
    model: str | None


@dataclass(slots=True)
class Planner:
    """Plans calls under the routes, prices and budgets in force."""

    routes: Routes
    prices: PriceBook
    book: BudgetBook
    health: Health

    def asked(self, call: Call) -> Model:
        """The model that the call is for.

        Raises:
            NotFound: the routes do not know it.
            InvalidInput: it is of the wrong kind.
        """
        kind = "chat" if call.operation == "chat" else "embedding"
        model = self.routes.find(call.asked) if call.asked else self.routes.primary(kind)
        if model.kind != kind:
            raise InvalidInput("model", f"{model.name} is of kind {model.kind}; this call needs {kind}")
        return model

    def plan(self, call: Call, now_ms: int, *, failed: Sequence[str] = ()) -> tuple[Plan, list[str]]:
        """The plan, and the models left out because their circuit is open.

        failed: models already tried in vain. With them, or when the circuit of the model asked for is open, the
            routes' fallbacks join the candidates.

        Raises:
            InvalidInput, NotFound, UnpricedModel: the call can't be made at all.
            NoUpstream: all its models are switched off.
        """
        asked = self.asked(call)
        check_fields(call.body, call.operation, asked.extra_fields)
        bounds = read_bounds(call.body, call.operation)
        watched, rule_sets = self._accounts(call, asked, now_ms)
        chooser = Chooser(self.routes, asked, rule_sets, lambda a, b: self._costs_more(a, b, now_ms))
        models = chooser.candidates()
        if failed or not self.health.available(asked.name):
            models += [m for m in self.routes.fallbacks(asked) if m not in models]
        models = [m for m in models if m.name not in failed]
        skipped = [m.name for m in models if not self.health.available(m.name)]
        open_models = [m for m in models if m.name not in skipped]
        if not open_models:
            raise NoUpstream("no model that could serve this call is available now: " + ", ".join(skipped or failed))
        for model in open_models:  # budgets on the models that the call may be downgraded to
            if model is not asked:
                accounts = self.book.accounts((Scope("model", model.name),), now_ms)
                watched += [_Watched(terms, None, model.name) for terms in accounts]
        candidates = tuple(
            self._candidate(call, bounds, model, watched, chooser, now_ms)
            for model in open_models
            if model is asked or self._priced(model, now_ms)
        )
        return Plan(tuple(w.terms for w in watched), candidates), skipped

    def _accounts(self, call: Call, asked: Model, now_ms: int) -> tuple[list[_Watched], list[Rules]]:
        rule_sets: list[Rules] = []
        watched = []
        for terms in self.book.accounts((*call.chain, Scope("model", asked.name)), now_ms):
            watched.append(_Watched(terms, len(rule_sets), asked.name if terms.scope.type == "model" else None))
            rule_sets.append(self._rules(terms, asked))
        if not all(w.terms.budget.policy.allow_downgrade for w in watched):
            rule_sets = [() for _ in watched]  # one budget that insists on the model asked for is enough
        return watched, rule_sets

    def _rules(self, terms: AccountTerms, asked: Model) -> Rules:
        policy = terms.budget.policy
        if policy.downgrade is None:
            return default_rules(self.routes, asked)
        return [(rule.from_model, rule.to_model) for rule in policy.downgrade]

    def _candidate(
        self,
        call: Call,
        bounds: Bounds,
        model: Model,
        watched: Sequence[_Watched],
        chooser: Chooser,
        now_ms: int,
    ) -> Candidate:
        price = self.prices.price_at(model.name, now_ms)
        tokens = 0
        if call.operation == "chat":
            tokens = min(bounds.max_tokens or model.default_max_tokens, model.max_output_tokens)
        most = ceiling(
            price,
            input_tokens_bound=input_tokens_bound(call.raw_bytes, bounds, model),
            choices=bounds.choices,
        )
        return Candidate(
            model=model.name,
            base_nano=most.base_nano,
            out_pico=most.out_pico,
            tokens=tokens,
            min_tokens=_fewest_tokens(tokens, watched),
            watched="".join(_mark(w, model, chooser) for w in watched),
        )

    def _priced(self, model: Model, now_ms: int) -> bool:
        try:
            self.prices.price_at(model.name, now_ms)
        except UnpricedModel:
            return False
        return True

    def _costs_more(self, model: Model, than: Model, now_ms: int) -> bool:
        try:
            first, second = self.prices.price_at(model.name, now_ms), self.prices.price_at(than.name, now_ms)
        except UnpricedModel:
            return False
        return first.input_pico + first.output_pico > second.input_pico + second.output_pico


def _mark(watched: _Watched, model: Model, chooser: Chooser) -> str:
    if watched.model is not None and watched.model != model.name:
        return UNAFFECTED
    if watched.rule_set is None:
        return EVEN_WHEN_DEGRADED
    fine = chooser.allowed_when_degraded(watched.rule_set, model)
    return EVEN_WHEN_DEGRADED if fine else NOT_WHEN_DEGRADED


def _fewest_tokens(tokens: int, watched: Sequence[_Watched]) -> int:
    policies = [w.terms.budget.policy for w in watched]
    if not all(p.allow_smaller_max_tokens for p in policies):
        return tokens
    return min(tokens, max((p.min_output_tokens for p in policies), default=tokens))
