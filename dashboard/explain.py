"""GET /api/explain/{requestId}: which accounts decided on a request, with their numbers at that time."""

from fastapi import APIRouter, Response

from core.clock import iso_utc
from dashboard import views
from dashboard.deps import Deps
from dashboard.wire import answer, usd
from ledger.model import CallRow


def router(deps: Deps) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["explain"])

    @routes.get("/explain/{request_id}")
    async def explain_request(request_id: str) -> Response:
        """What became of a request. Money in dollars; `spentAfter` is what the account had spent then."""
        found = await views.explained(deps.ledger, request_id)
        steps = [
            {
                "at": iso_utc(step.at_ms),
                "event": step.kind,
                "holdId": step.hold_id,
                "why": step.why,
                "accounts": [
                    {
                        "account": then.account_id,
                        "amount": usd(then.amount_nano),
                        "spentAfter": None if then.spent_nano is None else usd(then.spent_nano),
                    }
                    for then in step.accounts
                ],
            }
            for step in found.steps
        ]
        return answer({"requestId": request_id, "calls": [_call(c) for c in found.calls], "events": steps})

    return routes


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
