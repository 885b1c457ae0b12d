"""A call that is not made: what the gateway would do with it now.

It goes the way of a real call (`chat.ChatFlow.rehearse`): the same plan, the same decision, the same sentence.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from budget.dry_run import DryRun
from budget.service import Refused
from core.clock import Clock
from core.errors import InvalidInput
from core.keys import KeyRing, KeyRole, scope_chain
from core.scope import Chain, Scope, ordered_chain
from gateway.auth import add_named
from gateway.call import Attempt, Call
from gateway.chat import ChatFlow
from gateway.errors import problem_of_refusal
from gateway.why import decisive


@dataclass(slots=True)
class DryRuns:
    """Tries chat calls dry.

    refresh: reads the newest budgets and keys, so that the answer is of now.
    """

    flow: ChatFlow
    keys: KeyRing
    clock: Clock
    refresh: Callable[[], Awaitable[None]]

    async def dry_run(
        self, *, key_id: str | None, scopes: Sequence[Scope], model: str | None, body: dict[str, Any], raw_bytes: int
    ) -> DryRun:
        """What would happen to a call now; nothing is held, sent or spent.

        key_id: of the agent key that would make it; None: only `scopes` pay. scopes: that its caller names.
        model: None: the routes' primary. body: as of `gateway.call.Call`. raw_bytes: size of the request.

        Raises:
            SpendgateError: it could not be made at all, with the reason that its caller would be given.
        """
        await self.refresh()
        now_ms = self.clock.now_ms()
        chain = self._chain(key_id, scopes)
        call = Call(
            request_id="req_dry",
            surface="openai",
            operation="chat",
            asked=model,
            body=body,
            stream=False,
            wants_usage=False,
            raw_bytes=raw_bytes,
            chain=chain,
            key_id=key_id or "",
            received_ms=now_ms,
            received_s=self.clock.monotonic_s(),
        )
        found, skipped = await self.flow.rehearse(call)
        asked = self.flow.planner.asked(call)
        if isinstance(found, Refused):
            problem = problem_of_refusal(call, found)
            return DryRun(
                at_ms=now_ms,
                verdict=found,
                status=problem.status,
                code=problem.code,
                why=problem.message,
                model_requested=asked.name,
                model_served=None,
                decides=found.refusal.account,
                dropped_tools=(),
                skipped=tuple(skipped),
                raw_bytes=raw_bytes,
            )
        return DryRun(
            at_ms=now_ms,
            verdict=found.admission,
            status=200,
            code=None,
            why=found.why,
            model_requested=asked.name,
            model_served=found.model.name,
            decides=_index(found, decisive(asked, found.admission).id),
            dropped_tools=tuple(found.dropped_tools),
            skipped=tuple(skipped),
            raw_bytes=raw_bytes,
        )

    def _chain(self, key_id: str | None, scopes: Sequence[Scope]) -> Chain:
        named: dict[str, Scope] = {}
        for scope in scopes:
            add_named(named, scope)
        if key_id is None:
            return ordered_chain(named)
        key = self.keys.get(key_id)
        if key is None or key.role is not KeyRole.AGENT:
            raise InvalidInput("keyId", f"must be the id of an agent key; {key_id} is none")
        return scope_chain(key, named)


def _index(attempt: Attempt, account_id: str) -> int:
    return next(n for n, terms in enumerate(attempt.admission.plan.accounts) if terms.id == account_id)
