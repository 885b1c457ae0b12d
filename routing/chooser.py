"""Which models may serve a call, in order of preference. Pure.

A rule is (from, to): while its budget is Degraded, `from` is served by `to`; ``*`` is any model that costs more
than `to` (a downgrade never makes a call dearer). Rules chain: A -> B, B -> C.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

from core.errors import NotFound
from routing.model import Model, Routes

Rules = Sequence[tuple[str, str]]
CostsMore = Callable[[Model, Model], bool]


class Chooser:
    """The downgrade rules of one call's budgets, applied to the model that it asks for.

    costs_more: whether the first model is dearer than the second.
    """

    def __init__(self, routes: Routes, asked: Model, rule_sets: Sequence[Rules], costs_more: CostsMore) -> None:
        self._routes = routes
        self._costs_more = costs_more
        self._rule_sets = [self._known(rules, asked.kind) for rules in rule_sets]
        self._asked = asked
        self._chains = [self._chain(rules) for rules in self._rule_sets]

    def candidates(self) -> list[Model]:
        """The model asked for, then what the rules lead to, one step further down each time."""
        order = [self._asked]
        for model in order:  # grows while it is walked: breadth first
            for rules in self._rule_sets:
                following = self._step(model, rules)
                if following and following not in order:
                    order.append(following)
        return order

    def allowed_when_degraded(self, rule_set: int, model: Model) -> bool:
        """Whether the budget with these rules is content with `model` while it is Degraded."""
        if model == self._asked:
            return not self._chains[rule_set]
        return model in self._chains[rule_set] or self._step(model, self._rule_sets[rule_set]) is None

    def _known(self, rules: Rules, kind: str) -> list[tuple[Model | None, Model]]:
        """The rules with models of this kind that the routes know; a rule for a model that is gone has no effect."""
        known = []
        for source, target in rules:
            try:
                before = None if source == "*" else self._routes.find(source)
                after = self._routes.find(target)
            except NotFound:
                continue
            if after.kind == kind:
                known.append((before, after))
        return known

    def _step(self, model: Model, rules: Sequence[tuple[Model | None, Model]]) -> Model | None:
        for source, target in rules:
            if source == model and target != model:
                return target
            if source is None and target != model and self._costs_more(model, target):
                return target
        return None

    def _chain(self, rules: Sequence[tuple[Model | None, Model]]) -> list[Model]:
        chain: list[Model] = []
        following = self._step(self._asked, rules)
        while following and following not in chain and following != self._asked:
            chain.append(following)
            following = self._step(following, rules)
        return chain


def default_rules(routes: Routes, asked: Model) -> list[tuple[str, str]]:
    """The rules of a budget that names none: whatever was asked for goes to the first fallback, then on."""
    names = [m.name for m in routes.fallbacks(asked)]
    return [("*", names[0]), *pairwise(names)] if names else []
