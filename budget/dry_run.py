"""What a reserve would do at this moment, without doing it. The store is only read.

It is decided by `budget.policy.decide`, the specification of the script that reserves. Calls that come in between may
change the answer: it is of the moment in which the balances were read.
"""

from budget.checks import check_request
from budget.model import UNAFFECTED, Balance, Hold, Refusal, ReserveRequest
from budget.policy import Choice, decide
from budget.ports import BudgetStore
from budget.service import Admission, Plan, Refused
from core.values import value


@value
class DryRun:
    """What a call would get.

    at_ms: when the balances were read. status, code, why: as its caller would be told; code and why are None where
    there is nothing to tell. model_served: None: refused. decides: index of the account that the answer, or the
    refusal, would name; None: none in particular. raw_bytes: how large the request was taken to be.
    skipped: models whose circuit is open.
    """

    at_ms: int
    verdict: Admission | Refused
    status: int
    code: str | None
    why: str | None
    model_requested: str
    model_served: str | None
    decides: int | None
    dropped_tools: tuple[str, ...]
    skipped: tuple[str, ...]
    raw_bytes: int

    @property
    def outcome(self) -> str:
        """``served``, ``downgraded``, ``shortened`` or ``refused``."""
        if isinstance(self.verdict, Refused):
            return "refused"
        if self.model_served != self.model_requested:
            return "downgraded"
        return "shortened" if self.verdict.hold.tokens < self.verdict.candidate.tokens else "served"


async def would_reserve(store: BudgetStore, plan: Plan, now_ms: int) -> Admission | Refused:
    """What `BudgetService.reserve` would answer to a plan now; the hold has no id.

    Raises:
        InvalidInput: the store would not take the plan.
        StoreUnavailable: the balances can't be read.
    """
    check_request(ReserveRequest("", "", now_ms, 0, 0, plan.accounts, plan.candidates))
    found = await store.balances([terms.id for terms in plan.accounts])
    balances = tuple(
        Balance(b.spent_nano, b.held_nano, t.state_at(b.spent_nano)) for t, b in zip(plan.accounts, found, strict=True)
    )
    verdict = decide(plan.accounts, balances, plan.candidates)
    if isinstance(verdict, Refusal):
        return Refused(verdict, plan)
    after = _with_hold(balances, plan.candidates[verdict.candidate].watched, verdict)
    return Admission(Hold("", verdict.candidate, verdict.tokens, verdict.amount_nano, after), plan)


def _with_hold(balances: tuple[Balance, ...], watched: str, choice: Choice) -> tuple[Balance, ...]:
    """Every account of the request as a reserve tells of it: after the hold, where it is on the account."""
    return tuple(
        b if mark == UNAFFECTED else Balance(b.spent_nano, b.held_nano + choice.amount_nano, b.state)
        for b, mark in zip(balances, watched, strict=True)
    )
