"""From a call to what the budgets decide on: its accounts and its candidates with their ceilings. No I/O."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from budget.book import BudgetBook
from budget.model import EVEN_WHEN_DEGRADED, NOT_WHEN_DEGRADED, UNAFFECTED, AccountTerms, Candidate
from budget.service import Plan
from core.errors import InvalidInput, SpendgateError
from core.scope import Chain, Scope
from core.values import value
from gateway.bounds import Bounds, input_tokens_bound, read_bounds
from gateway.call import Call
from gateway.fields import check_fields
from gateway.record import option_detail
from routing.chooser import Chooser, Rules, default_rules
from routing.health import Health
from routing.model import Endpoint, Model, Routes
from telemetry.prices import Price, PriceBook, UnpricedModel
from telemetry.pricing import ceiling

#: Shapes that are kept; the oldest goes first.
_MOST_SHAPES = 10_000


class NoUpstream(SpendgateError):
    """Every model that could serve the call is switched off by its circuit."""

    status = 503
    code = "upstream_unavailable"
    retry_after_s = 5


@value
class _Watched:
    """An account of the call.

    rule_set: index of its budget's downgrade rules; None: a budget on a model that is itself a downgrade.
    model: set where it watches that model only.
    """

    terms: AccountTerms
    rule_set: int | None
    model: str | None


@value
class Option:
    """A model that may serve.

    floor_tokens: an answer may be made as short as this; None: not shortened.
    told: what records of its attempts say of it.
    """

    model: Model
    endpoint: Endpoint
    price: Price
    watched: str
    floor_tokens: int | None
    told: bytes


@value
class Shape:
    """What the plans of all calls by one chain for one model have in common, for as long as nothing changes.

    options: one for each candidate of the plan. skipped: models left out because their circuit is open.
    changes: of budgets and prices, when it was made. from_ms, until_ms: when it holds.
    """

    accounts: tuple[AccountTerms, ...]
    account_ids: tuple[str, ...]
    options: tuple[Option, ...]
    skipped: list[str]
    changes: int
    from_ms: int
    until_ms: int | None

    def holds(self, changes: int, now_ms: int) -> bool:
        """Whether it is true at this instant."""
        in_time = self.from_ms <= now_ms and (self.until_ms is None or now_ms < self.until_ms)
        return in_time and self.changes == changes


@dataclass(slots=True)
class Planner:
    """Plans calls under the routes, prices and budgets in force."""

    routes: Routes
    prices: PriceBook
    book: BudgetBook
    health: Health
    _shapes: OrderedDict[tuple[str, str], Shape] = field(default_factory=OrderedDict)

    def asked(self, call: Call) -> Model:
        """The model that the call is for.

        Raises:
            NotFound: the routes do not know it.
            InvalidInput: it is of the wrong kind.
        """
        if call.model is not None:
            return call.model
        kind = "chat" if call.operation == "chat" else "embedding"
        model = self.routes.find(call.asked) if call.asked else self.routes.primary(kind)
        if model.kind != kind:
            raise InvalidInput("model", f"{model.name} is of kind {model.kind}; this call needs {kind}")
        call.model = model
        return model

    def plan(self, call: Call, now_ms: int, *, failed: Sequence[str] = ()) -> tuple[Plan, Shape]:
        """The plan, and what it was made by.

        failed: models already tried in vain. With them, or when the circuit of the model asked for is open, the
            routes' fallbacks join the candidates.

        Raises:
            InvalidInput, NotFound, UnpricedModel: the call can't be made at all.
            NoUpstream: all its models are switched off.
        """
        asked = self.asked(call)
        check_fields(call.body, call.operation, asked.extra_fields)
        bounds = read_bounds(call.body, call.operation)
        if failed or not self.health.untroubled:
            shape = self._make_shape(call.chain, asked, now_ms, failed)
        else:
            shape = self.shape(call.chain, asked, now_ms)
        candidates = tuple([_candidate(call, bounds, option) for option in shape.options])
        return Plan(shape.accounts, shape.account_ids, candidates), shape

    def shape(self, chain: Chain, asked: Model, now_ms: int) -> Shape:
        """What the plans of these calls have in common now.

        Raises:
            UnpricedModel: the model asked for has no price. NoUpstream: all that could serve are switched off.
        """
        key = (chain.text, asked.name)
        shape = self._shapes.get(key)
        if shape is None or not shape.holds(self._changes, now_ms):
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.popitem(last=False)
            shape = self._shapes[key] = self._make_shape(chain, asked, now_ms, ())
        return shape

    @property
    def _changes(self) -> int:
        """Moves when budgets or prices change: each of the two only counts up."""
        return self.book.changes + self.prices.changes

    def _make_shape(self, chain: Chain, asked: Model, now_ms: int, failed: Sequence[str]) -> Shape:
        watched, rule_sets = self._accounts(chain, asked, now_ms)
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
        floor = _floor_tokens(watched)
        options = tuple(
            self._option(m, asked, now_ms, "".join(_mark(w, m, chooser) for w in watched), floor)
            for m in open_models
            if m is asked or self._priced(m, now_ms)
        )
        ends = [w.terms.until_ms for w in watched] + [self.prices.next_change_ms(now_ms)]
        until_ms = min((ms for ms in ends if ms is not None), default=None)
        accounts = tuple(w.terms for w in watched)
        ids = tuple(terms.id for terms in accounts)
        return Shape(accounts, ids, options, skipped, self._changes, now_ms, until_ms)

    def _option(self, model: Model, asked: Model, now_ms: int, watched: str, floor_tokens: int | None) -> Option:
        other = model is not asked and self._priced(asked, now_ms)
        instead_of = self.prices.price_at(asked.name, now_ms) if other else None
        price, endpoint = self.prices.price_at(model.name, now_ms), self.routes.endpoints[model.endpoint]
        told = option_detail(model, endpoint, price, instead_of)
        return Option(model, endpoint, price, watched, floor_tokens, told)

    def _accounts(self, chain: Chain, asked: Model, now_ms: int) -> tuple[list[_Watched], list[Rules]]:
        rule_sets: list[Rules] = []
        watched = []
        for terms in self.book.accounts((*chain, Scope("model", asked.name)), now_ms):
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


def _floor_tokens(watched: Sequence[_Watched]) -> int | None:
    """The fewest tokens that an answer may be shortened to; None: it may not be."""
    policies = [w.terms.budget.policy for w in watched]
    if not policies or not all(p.allow_smaller_max_tokens for p in policies):
        return None
    return max(p.min_output_tokens for p in policies)


def _candidate(call: Call, bounds: Bounds, option: Option) -> Candidate:
    model, tokens = option.model, 0
    if call.operation == "chat":
        tokens = min(bounds.max_tokens or model.default_max_tokens, model.max_output_tokens)
    most_input = input_tokens_bound(call.raw_bytes, bounds, model)
    most = ceiling(option.price, input_tokens_bound=most_input, choices=bounds.choices)
    floor = option.floor_tokens
    fewest = tokens if floor is None or floor > tokens else floor
    return Candidate(model.name, most.base_nano, most.out_pico, tokens, fewest, option.watched)
