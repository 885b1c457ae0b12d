"""The ledger held against the live accounts, and against what a provider recorded.

1. Accounts: what was posted on each, by the ledger, is what the live state has spent. Calls go on meanwhile, so the
   ledger's sum, read after one look at the live state and before another, has to lie between the two.
2. Calls, by the id of the attempt (Databricks' `client_request_id`, Helicone's request id): which are known on both
   sides, and where tokens or cost differ.
3. Where the provider knows better, an `Adjustment` carries the difference; nothing is ever edited. Costs are the
   provider's own where it tells one, else its tokens at our price of that day.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from core.values import value
from ledger.model import CallRow
from ledger.ports import AccountPoint, Adjustment, Interval

#: Kinds of rows that say what a call cost; a refusal made none.
_COSTS = frozenset({"settle", "expire", "post", "void"})


@value
class ProviderCall:
    """A call as a provider recorded it. attempt_id: ours, as we sent it. cost_nano: None where it tells none."""

    attempt_id: str
    at_ms: int
    model: str
    accepted: bool
    input_tokens: int
    output_tokens: int
    cost_nano: int | None


class UsageSource(Protocol):
    """A provider's record of calls."""

    name: str

    def calls(self, interval: Interval) -> AsyncIterator[ProviderCall]:
        """Those of an interval."""
        ...


#: What a provider's call costs at our prices: (model, epoch ms, input tokens, output tokens); None: there is no price.
Pricing = Callable[[str, int, int, int], int | None]


@value
class AccountDrift:
    """An account whose ledger and live state differ, in nano-dollars."""

    account_id: str
    ledger_nano: int
    live_nano: int


@dataclass(slots=True)
class ModelDrift:
    """One model, both sides. Costs in nano-dollars, of the calls that both know."""

    here: int = 0
    there: int = 0
    both: int = 0
    tokens_here: int = 0
    tokens_there: int = 0
    cost_here_nano: int = 0
    cost_there_nano: int = 0

    @property
    def capture(self) -> float:
        """Share of the provider's calls that the ledger knows."""
        return self.both / self.there if self.there else 1.0


@dataclass(slots=True)
class Report:
    """What a reconciliation found.

    behind: events that the ledger did not have when it was compared: what they posted is no drift yet.
    unknown: attempts of the provider's that the ledger does not know. unpriced: that have no price here.
    """

    source: str
    behind: int = 0
    accounts: list[AccountDrift] = field(default_factory=list)
    models: dict[str, ModelDrift] = field(default_factory=dict)
    adjustments: list[Adjustment] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unpriced: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Nothing differs."""
        return not (self.accounts or self.adjustments or self.unknown)

    def as_json(self) -> dict[str, Any]:
        """For programs; amounts are nano-dollars."""
        return {
            "source": self.source,
            "behind": self.behind,
            "clean": self.clean,
            "accounts": [
                {"account": d.account_id, "ledgerNano": d.ledger_nano, "liveNano": d.live_nano} for d in self.accounts
            ],
            "models": {
                name: {
                    "callsHere": m.here,
                    "callsThere": m.there,
                    "callsBoth": m.both,
                    "captureRate": round(m.capture, 6),
                    "tokensHere": m.tokens_here,
                    "tokensThere": m.tokens_there,
                    "costHereNano": m.cost_here_nano,
                    "costThereNano": m.cost_there_nano,
                }
                for name, m in sorted(self.models.items())
            },
            "adjustments": [
                {"hold": a.call.hold_id, "deltaNano": a.delta_nano, "costNano": a.cost_nano, "why": a.why}
                for a in self.adjustments
            ],
            "unknown": self.unknown,
            "unpriced": self.unpriced,
        }


def compare_accounts(
    ledger: Iterable[AccountPoint], before_nano: Mapping[str, int], after_nano: Mapping[str, int]
) -> list[AccountDrift]:
    """Accounts of the live state whose spend is not the sum of the ledger's postings.

    before_nano, after_nano: what was spent on each account that is kept, before the ledger's sums were read and after;
    older accounts are in the ledger alone.
    """
    posted: dict[str, int] = {}
    for point in ledger:
        posted[point.account_id] = posted.get(point.account_id, 0) + point.posted_nano
    found = []
    for name, nano in sorted(before_nano.items()):
        ours, later = posted.get(name, 0), after_nano.get(name, nano)
        if not min(nano, later) <= ours <= max(nano, later):
            found.append(AccountDrift(name, ours, later))
    return found


def compare_calls(
    report: Report,
    here: Iterable[CallRow],
    there: Iterable[ProviderCall],
    price: Pricing,
    in_flight: Collection[str] = (),
) -> None:
    """Match calls by their attempt; fills in the report's models, adjustments, unknown and unpriced.

    in_flight: attempts that had not ended here when `there` had been read. A record that comes twice counts once, and a
    call that the report has an adjustment of gets no second one.
    """
    known: dict[str, list[CallRow]] = {}
    for call in here:
        if call.kind in _COSTS or call.kind in ("true_up", "reconcile"):
            known.setdefault(call.hold_id, []).append(call)
    for rows in known.values():
        if any(row.outcome in ("answered", "aborted", "expired") for row in rows):
            _model(report, rows[0]).here += 1
    seen: set[str] = set()
    adjusted = {a.call.hold_id for a in report.adjustments}
    for theirs in there:
        rows = known.get(theirs.attempt_id, [])
        if not theirs.accepted or theirs.attempt_id in seen or (not rows and theirs.attempt_id in in_flight):
            continue
        seen.add(theirs.attempt_id)
        drift = report.models.setdefault(_name(rows, theirs), ModelDrift())
        drift.there += 1
        if not rows:
            report.unknown.append(theirs.attempt_id)
            continue
        drift.both += 1
        adjustment = _compare(report, drift, rows, theirs, price)
        if adjustment and theirs.attempt_id not in adjusted:
            report.adjustments.append(adjustment)


def _compare(
    report: Report, drift: ModelDrift, rows: list[CallRow], theirs: ProviderCall, price: Pricing
) -> Adjustment | None:
    ours = max(rows, key=lambda row: (row.input_tokens + row.output_tokens, row.at_ms))
    cost_here = sum(row.posted_nano for row in rows)
    tokens_here = _tokens(ours)
    tokens_there = theirs.input_tokens + theirs.output_tokens
    drift.tokens_here += tokens_here
    drift.tokens_there += tokens_there
    drift.cost_here_nano += cost_here
    cost_there: int | None = cost_here
    if theirs.cost_nano is not None:
        cost_there = theirs.cost_nano
    elif tokens_here != tokens_there or not _exact(rows):
        model = ours.model_served or ours.model_requested or theirs.model
        cost_there = price(model, ours.at_ms, theirs.input_tokens, theirs.output_tokens)
    if cost_there is None:
        report.unpriced.append(theirs.attempt_id)
        cost_there = cost_here
    drift.cost_there_nano += cost_there
    if cost_there == cost_here:
        return None
    why = f"{report.source} counted {tokens_there} tokens, we {tokens_here}"
    return Adjustment(ours, cost_there, cost_there - cost_here, report.source, why)


def _exact(rows: list[CallRow]) -> bool:
    return any(row.basis == "exact" or row.kind in ("true_up", "reconcile") for row in rows)


def _tokens(call: CallRow) -> int:
    return (
        call.input_tokens
        + call.cached_input_tokens
        + call.cache_write_tokens
        + call.output_tokens
        + call.reasoning_tokens
    )


def _model(report: Report, call: CallRow) -> ModelDrift:
    return report.models.setdefault(call.model_served or call.model_requested or "unknown", ModelDrift())


def _name(rows: list[CallRow], theirs: ProviderCall) -> str:
    if rows:
        return rows[0].model_served or rows[0].model_requested or theirs.model
    return theirs.model or "unknown"
