"""The one request flow. A call, whatever its surface, goes through here:

1. the surface parsed it and `auth` gave it a scope chain;
2. `Planner.plan`: accounts, candidates in order of preference, a ceiling for each;
3. `BudgetService.reserve`: one candidate's ceiling is held on every account, or the call is refused;
4. the upstream is called with the granted max_tokens and without disabled tools;
5. a failure ends that attempt (void, or charged at its bound if the provider may have charged) and the next attempt
   takes over the held money, or reserves anew when it needs more;
6. usage is read, or estimated when the provider did not say;
7. `BudgetService.settle` posts the cost and appends the event, exactly once per attempt.

The answer does not wait for the settlement, which is on its way to the store when the answer leaves. Until it is there
the hold protects the money; if the worker dies in between, the hold expires and is charged in full.

A client that goes away ends its call as the endpoint says (`routing.model.OnAbort`).

Failure policy: no hold, no call. Once a hold exists, its end is always sent, whatever happens to the client.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from budget.dry_run import would_reserve
from budget.model import Basis, BudgetState, Hold, NextHold
from budget.service import Admission, BudgetService, Refused
from core.clock import Clock
from core.errors import SpendgateError
from core.ids import derived_id
from gateway.bounds import estimate_input_tokens, input_tokens_bound, read_bounds
from gateway.call import AccountStanding, Answered, Attempt, Call, standing_after
from gateway.http import ClientGone, Interruptible
from gateway.planner import Planner, Shape
from gateway.record import ABORTED, attempt_detail, hold_detail
from gateway.sizes import BEYOND, answer_bytes, choices_of, sent_bytes, tokens_of_cut_answer
from gateway.why import why_not_as_asked
from routing.adapters.registry import Upstreams
from routing.errors import MAYBE_CHARGED, FailureKind, UpstreamError
from routing.model import OnAbort
from routing.upstream import UpstreamAnswer, UpstreamCall, UpstreamStream
from telemetry.pricing import cost_nano
from telemetry.usage import EstimatedUsage, ExactUsage, Tokens, Usage, estimate_tokens, read_usage

log = logging.getLogger("spendgate.gateway")

#: Failures worth another try at the same model.
_TRY_AGAIN = frozenset({FailureKind.NOT_SENT, FailureKind.RATE_LIMITED, FailureKind.UNAVAILABLE})
_TRIES_PER_MODEL = 2
MAX_TRIES = 5
#: With less of the call's time left no attempt is begun.
_SHORTEST_TRY_S = 1.0
_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 5.0

T = TypeVar("T")


@dataclass(slots=True)
class OpenedStream:
    """A stream that the upstream has accepted; `stream.pump` carries it to the client and ends its hold."""

    call: Call
    attempt: Attempt
    upstream: UpstreamStream
    skipped_circuits: list[str]
    spent_before_nano: int


@dataclass(slots=True)
class _Progress:
    """What has happened to a call so far. tries: per model. charged_nano: by attempts that ended badly.
    shape: of the plan that was made last.
    """

    tries: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    charged_nano: int = 0
    shape: Shape | None = None

    @property
    def skipped(self) -> list[str]:
        """Models that were left out because their circuit is open."""
        return self.shape.skipped if self.shape else []


@dataclass(frozen=True, slots=True)
class DrainLimits:
    """For how long, and how many bytes of a stream, an upstream is read on whose client has gone away."""

    time_s: float = 30.0
    max_bytes: int = 16 * 1024 * 1024


@dataclass(slots=True)
class ChatFlow:
    """Carries calls from admission to settlement.

    call_timeout_s: for a call with all its retries; of a stream until it begins, and between two events.
    stream_timeout_s: for a whole stream, however steadily it comes.
    """

    planner: Planner
    budgets: BudgetService
    upstreams: Upstreams
    clock: Clock
    call_timeout_s: float = 290.0
    drain: DrainLimits = DrainLimits()
    stream_timeout_s: float = 1800.0

    async def answer(self, call: Call) -> Answered | Refused:
        """Serve a call that is answered at once.

        Raises:
            SpendgateError: it can't be admitted for another reason than money.
            UpstreamError: no candidate gave an answer.
            ClientGone: nobody waits for one; the call is charged.
        """
        progress = _Progress()
        done = await self._attempts(call, progress, self._send)
        if isinstance(done, Refused):
            return done
        attempt, answer = done
        self.planner.health.succeeded(attempt.model.name)
        try:
            usage: Usage | str = read_usage(answer.body.get("usage"))
            if isinstance(usage, str):
                usage = self.estimated(call, attempt, usage, answer_bytes(answer.body))
            outcome = ABORTED if call.left else "answered"
            cost, standing = self.finish(call, attempt, usage, outcome=outcome)
        finally:
            self.budgets.let_go(attempt.admission)
        return Answered(call, attempt, answer, usage, cost + progress.charged_nano, standing, progress.skipped)

    async def open(self, call: Call) -> OpenedStream | Refused:
        """Start a call that is answered in a stream. The caller must hand the result to `stream.pump`.

        Raises:
            SpendgateError, UpstreamError, ClientGone: as `answer`.
        """
        progress = _Progress()
        done = await self._attempts(call, progress, self._open)
        if isinstance(done, Refused):
            return done
        return OpenedStream(call, done[0], done[1], progress.skipped, progress.charged_nano)

    async def _send(self, call: Call, attempt: Attempt) -> UpstreamAnswer:
        answer = await self.upstreams.for_model(attempt.model).send(self._outgoing(call, attempt))
        if choices_of(answer.body, "message") is None:
            raise UpstreamError(FailureKind.BROKEN, "the answer has not the shape of one")
        return answer

    def _open(self, call: Call, attempt: Attempt) -> Coroutine[Any, Any, UpstreamStream]:
        return self.upstreams.for_model(attempt.model).open_stream(self._outgoing(call, attempt))

    async def rehearse(self, call: Call) -> tuple[Attempt | Refused, list[str]]:
        """What `answer` would begin with at this moment, and the models that open circuits leave out. Nothing is held,
        sent or charged.

        Raises:
            SpendgateError: it could not be admitted for another reason than money.
        """
        self.budgets.witness.check()
        progress, now_ms = _Progress(), self.clock.now_ms()
        plan, progress.shape = self.planner.plan(call, now_ms)
        verdict = await would_reserve(self.budgets.store, plan, now_ms)
        if isinstance(verdict, Refused):
            return verdict, progress.skipped
        return self._attempt(call, progress, verdict), progress.skipped

    async def _attempts(
        self, call: Call, progress: _Progress, send: Callable[[Call, Attempt], Coroutine[Any, Any, T]]
    ) -> tuple[Attempt, T] | Refused:
        attempt = await self._admit(call, progress)
        while not isinstance(attempt, Refused):
            if call.left:  # and nothing has been sent
                self._end_failed(call, attempt, charged=False, kind=ABORTED)
                raise ClientGone
            name = attempt.model.name
            progress.tries[name] = progress.tries.get(name, 0) + 1
            self.planner.health.started(name)
            began_s = self.clock.monotonic_s()
            try:
                with Interruptible(call.client, self.drain.time_s if _is_read_on(call, attempt) else 0.0):
                    result = await send(call, attempt)
            except ClientGone:
                # It was sent and nothing came: what the provider has made of it nobody can tell.
                self._end_failed(call, attempt, charged=True, kind=ABORTED)
                raise
            except UpstreamError as error:
                attempt.upstream_s = self.clock.monotonic_s() - began_s
                attempt = await self._after_failure(call, progress, attempt, error)
            except BaseException:
                # Cancelled, or a bug: the request may be on its way, so it is charged at its bound.
                self.planner.health.failed(name, UpstreamError(FailureKind.BROKEN, "the call was abandoned"))
                self._end_failed(call, attempt, charged=True, kind="abandoned")
                raise
            else:
                attempt.upstream_s = self.clock.monotonic_s() - began_s
                return attempt, result
        return attempt

    async def _admit(self, call: Call, progress: _Progress) -> Attempt | Refused:
        hold_id = attempt_id(call.request_id, sum(progress.tries.values()))
        asked = self.planner.asked(call)

        def make_plan(now_ms: int) -> Any:
            plan, progress.shape = self.planner.plan(call, now_ms, failed=progress.failed)
            return plan

        verdict = await self.budgets.reserve(make_plan, hold_id=hold_id, detail=hold_detail(call, asked.name))
        return verdict if isinstance(verdict, Refused) else self._attempt(call, progress, verdict)

    def _attempt(self, call: Call, progress: _Progress, admission: Admission) -> Attempt:
        assert progress.shape is not None, "there was a plan"
        option = progress.shape.options[admission.hold.candidate]
        body, dropped = _outgoing_body(call, admission)
        why = why_not_as_asked(self.planner.asked(call), admission, progress.failed, progress.skipped)
        return Attempt(admission, option.model, option.endpoint, option.price, option.told, body, dropped, why)

    def _left_s(self, call: Call) -> float:
        """What is left of the time for a call with all its attempts."""
        return self.call_timeout_s - (self.clock.monotonic_s() - call.received_s)

    def _outgoing(self, call: Call, attempt: Attempt) -> UpstreamCall:
        return UpstreamCall(
            model=attempt.model,
            body=attempt.body,
            operation=call.operation,
            attempt_id=attempt.admission.hold.id,
            timeout_s=max(_SHORTEST_TRY_S, self._left_s(call)),
            usage_context=call.chain.keys,
            traceparent=call.traceparent,
        )

    async def _after_failure(
        self, call: Call, progress: _Progress, attempt: Attempt, error: UpstreamError
    ) -> Attempt | Refused:
        """End the failed attempt; the next one, or raise what the client has to hear."""
        name = attempt.model.name
        self.planner.health.failed(name, error)
        charged = error.kind in MAYBE_CHARGED
        log.warning("%s: attempt at %s failed: %s (status %s)", call.request_id, name, error.kind, error.status)
        no_more = sum(progress.tries.values()) >= MAX_TRIES or self._left_s(call) < _SHORTEST_TRY_S
        if error.kind is FailureKind.REJECTED or no_more:
            self._end_failed(call, attempt, charged=charged, kind=error.kind)
            raise error
        pause_s = self._pause_s(call, progress, name, error)
        if pause_s is not None:
            try:
                await asyncio.sleep(pause_s)
            except asyncio.CancelledError:  # the hold of the attempt that failed still has to end
                self._end_failed(call, attempt, charged=charged, kind=error.kind)
                raise
            return await self._again(call, progress, attempt, error)
        progress.failed.append(name)
        progress.charged_nano += self._end_failed(call, attempt, charged=charged, kind=error.kind)
        try:
            following = await self._admit(call, progress)
        except SpendgateError:
            log.info("%s: nothing to fall back to", call.request_id)
            raise error from None
        if isinstance(following, Refused):
            raise error
        return following

    def _pause_s(self, call: Call, progress: _Progress, name: str, error: UpstreamError) -> float | None:
        """How long to wait before the same model is tried again; None: it is not worth it."""
        if error.kind not in _TRY_AGAIN or progress.tries[name] >= _TRIES_PER_MODEL:
            return None
        pause_s = _FIRST_PAUSE_S if error.retry_after_s is None else error.retry_after_s
        left_s = self._left_s(call)
        return pause_s if pause_s <= min(_MAX_PAUSE_S, left_s / 2, left_s - _SHORTEST_TRY_S) else None

    async def _again(self, call: Call, progress: _Progress, attempt: Attempt, error: UpstreamError) -> Attempt:
        """The same model once more, with the money of the attempt that failed."""
        old = attempt.admission
        next_id = attempt_id(call.request_id, sum(progress.tries.values()))
        following = NextHold(next_id, old.hold.amount_nano, hold_detail(call, old.candidate.model))
        detail = attempt_detail(call, attempt, None, 0, self.clock.now_ms(), outcome=error.kind)
        taken = await self.budgets.hand_over(old, following, cost_nano=0, basis=Basis.EXACT, detail=detail)
        if not taken:
            raise error
        hold = Hold(following.id, old.hold.candidate, old.hold.tokens, following.amount_nano, old.hold.balances)
        return replace(attempt, admission=Admission(hold, old.plan))

    def _end_failed(self, call: Call, attempt: Attempt, *, charged: bool, kind: str) -> int:
        """Void the hold, or charge its bound where the provider may have charged; what is posted."""
        cost = attempt.admission.hold.amount_nano if charged else 0
        detail = attempt_detail(call, attempt, None, cost, self.clock.now_ms(), outcome=kind)
        if charged:
            self.budgets.settle(attempt.admission, cost, Basis.ESTIMATED, detail)
        else:
            self.budgets.void(attempt.admission, detail)
        return cost

    def estimated(
        self, call: Call, attempt: Attempt, why: str, received_bytes: int, *, cut_after_s: float | None = None
    ) -> EstimatedUsage:
        """A bound on what was sent and received, where the provider's usage can't be believed. why: what is wrong.

        cut_after_s: how long an answer had come before it was cut off. What was seen of it is estimated, with what
            the upstream makes until it notices.
        """
        log.warning("%s: %s; estimated instead", call.request_id, why)
        bounds = read_bounds(attempt.body, call.operation)
        sent = most = input_tokens_bound(call.raw_bytes, bounds, attempt.model)
        received = min(received_bytes, attempt.admission.hold.tokens * bounds.choices)
        if cut_after_s is not None:
            sent = min(most, estimate_input_tokens(sent_bytes(attempt.body), bounds, attempt.model))
            received = tokens_of_cut_answer(estimate_tokens(received_bytes), cut_after_s)
        return EstimatedUsage(Tokens(input=max(1, sent), output=received), why)

    def finish(
        self, call: Call, attempt: Attempt, usage: Usage, *, outcome: str = "answered", whole_hold: bool = False
    ) -> tuple[int, AccountStanding]:
        """Settle an answered attempt: what it cost, and how its tightest account stands then.

        Exact usage is posted whatever it is. An estimate is never more than the hold, unless more has come.
        whole_hold: charge no less than what is held.
        """
        cost, held = cost_nano(attempt.price, usage.tokens), attempt.admission.hold.amount_nano
        exact = isinstance(usage, ExactUsage) and not whole_hold
        known = isinstance(usage, ExactUsage) or usage.why == BEYOND
        if not known:
            cost = min(cost, held)
        if whole_hold:
            cost = max(cost, held)
        detail = attempt_detail(call, attempt, usage, cost, self.clock.now_ms(), outcome=outcome)
        self.budgets.settle(attempt.admission, cost, Basis.EXACT if exact else Basis.ESTIMATED, detail)
        return cost, standing_after(attempt.admission, cost, held)


def attempt_id(request_id: str, number: int) -> str:
    """The hold of a request's attempt, from 0; known from the request alone, so that a webhook can find the last."""
    return derived_id("hld", request_id, str(number)) if number else "hld_" + request_id.partition("_")[2]


def _is_read_on(call: Call, attempt: Attempt) -> bool:
    """Whether the answer is waited for after its client has left. One that is not streamed shows nothing before its
    end, so there is nothing to estimate from, and providers make it to its end anyway.
    """
    on_abort = attempt.endpoint.on_abort
    return on_abort is OnAbort.DRAIN or (on_abort is OnAbort.ESTIMATE and not call.stream)


def _outgoing_body(call: Call, admission: Admission) -> tuple[dict[str, Any], list[str]]:
    """The body with the granted max_tokens, which makes the ceiling real, and without the tools that an account which
    is Degraded takes away; their names.
    """
    body = dict(call.body)
    if call.operation == "chat":
        field_name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        body.pop("max_tokens", None)
        body[field_name] = admission.hold.tokens
    tools = body.get("tools")
    if not tools:
        return body, []
    disabled = {
        tool
        for terms, balance in admission.watching
        if balance.state >= BudgetState.DEGRADED
        for tool in terms.budget.policy.disabled_tools
    }
    kept = [t for t in tools if t["function"]["name"] not in disabled]
    dropped = [t["function"]["name"] for t in tools if t["function"]["name"] in disabled]
    if not dropped:
        return body, []
    if kept:
        body["tools"] = kept
    else:
        body.pop("tools")
    choice = body.get("tool_choice")
    if not kept or (isinstance(choice, dict) and choice.get("function", {}).get("name") in disabled):
        body.pop("tool_choice", None)
        body.pop("parallel_tool_calls", None)
    return body, dropped
