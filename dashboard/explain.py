"""GET /api/explain/{requestId}: which accounts decided on a request, with their numbers at that time."""

from fastapi import APIRouter, Response

from core.clock import iso_utc
from dashboard import views
from dashboard.deps import Deps
from dashboard.wire import answer, usd, usd_or_none
from ledger.model import CallRow


def router(deps: Deps) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["explain"])

    @routes.get("/explain/{request_id}")
    async def explain_request(request_id: str) -> Response:
        """What became of a request. Money in dollars; `spentAfter` is what the account had spent after the event.

        `spent`, `held`, `state`, `limit` and `hardLimit` are from when it was decided: with the call's hold if it was
        admitted, as they were if it was refused; `decided` marks the account that refused.
        """
        return answer(shown_explanation(await views.explained(deps.ledger, request_id)))

    return routes


def shown_explanation(found: views.Explained) -> dict[str, object]:
    """What became of a request, as answers show it."""
    steps = [
        {
            "at": iso_utc(step.at_ms),
            "event": step.kind,
            "holdId": step.hold_id,
            "why": step.why,
            "accounts": [_account(then) for then in step.accounts],
        }
        for step in found.steps
    ]
    return {"requestId": found.request_id, "calls": [_call(call) for call in found.calls], "events": steps}


def _account(then: views.AccountThen) -> dict[str, object]:
    shown: dict[str, object] = {
        "account": then.account_id,
        "amount": usd_or_none(then.amount_nano),
        "spentAfter": usd_or_none(then.spent_nano),
    }
    stood = then.stood
    if stood:
        shown |= {
            "decided": then.decided,
            "state": stood.state.label,
            "spent": usd(stood.spent_nano),
            "held": usd(stood.held_nano),
            "limit": usd(stood.limit_nano),
            "hardLimit": usd(stood.hard_nano),
        }
    return shown


def _call(call: CallRow) -> dict[str, object]:
    return {
        "at": iso_utc(call.at_ms),
        "kind": call.kind,
        "outcome": call.outcome,
        "scopes": call.scopes,
        "modelRequested": call.model_requested,
        "modelServed": call.model_served,
        "state": call.state,
        "why": call.why,
        "cost": usd(call.cost_nano),
        "held": usd(call.held_nano),
        "saved": usd(call.saved_nano) if call.downgraded else None,
        "refusal": call.refusal,
        "refusedBy": call.account_id,
        "needed": usd(call.saved_nano) if call.refusal else None,
        "latencyMs": call.latency_ms,
    }
