"""The routes that carry calls: key, body, flow, answer. `connection` brings them here; FastAPI serves the rest."""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from budget.service import Refused
from core.clock import Clock
from core.errors import BodyTooLarge, SpendgateError, Unauthorized
from core.ids import Ids, derived_id
from gateway.auth import Authenticator
from gateway.call import Call, standing_now
from gateway.chat import ChatFlow, OpenedStream
from gateway.errors import Problem, problem_of, problem_of_refusal, problem_of_upstream
from gateway.headers import call_lines
from gateway.heads import RequestHead
from gateway.http import (
    Answering,
    Client,
    ClientGone,
    Limits,
    Message,
    RequestTimeout,
    header_lines,
    read_body,
    read_headers,
    read_json_object,
)
from gateway.idempotency import AnswerMemory, Claim, Recorder, Replay, claim_name, fingerprint
from gateway.stream import AgentStream, OpenAIStream, pump
from gateway.surfaces import AgentSurface, DatabricksSurface, OpenAISurface, Surface
from routing.errors import UpstreamError

log = logging.getLogger("spendgate.gateway")

#: Refusals of requests that have not been read to their end: what still comes is not read either.
_UNREAD = frozenset({BodyTooLarge.status, RequestTimeout.status})
_SURFACES: dict[str, Surface] = {
    "/agent/chat": AgentSurface(),
    "/v1/chat/completions": OpenAISurface("chat"),
    "/v1/embeddings": OpenAISurface("embeddings"),
    "/serving-endpoints/chat/completions": DatabricksSurface(),
    "/serving-endpoints/embeddings": DatabricksSurface(),
}
_JSON = "Content-Type: application/json\r\n"
_EVENTS = "Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
_REPLAYED = "Idempotency-Replayed: true\r\n"
_INVOCATIONS = re.compile(r"/serving-endpoints/([^/]{1,256})/invocations")


class Exchange(Client, Answering, Protocol):
    """One request on a hot route, and the way back."""

    head: RequestHead

    def whole_body(self) -> bytes | None:
        """The body, if it has come to its end already."""
        ...

    async def receive(self) -> Message:
        """What comes next of the body, as an ASGI message."""
        ...


@dataclass(slots=True)
class HotRoutes:
    """Serves the calls of agents.

    ready: None while calls may be admitted, otherwise why not.
    running: calls that have not ended.
    """

    flow: ChatFlow
    callers: Authenticator
    clock: Clock
    ids: Ids
    limits: Limits
    answers: AnswerMemory
    ready: Callable[[], str | None]
    running: int = 0
    _idle: asyncio.Event | None = field(init=False, default=None)

    def surface(self, path: str) -> Surface | None:
        """The surface that a path belongs to; None: it is not a hot route."""
        surface = _SURFACES.get(path)
        if surface is not None or not path.startswith("/serving-endpoints/"):
            return surface
        invocation = _INVOCATIONS.fullmatch(path)
        return DatabricksSurface(invocation[1]) if invocation else None

    async def serve(self, exchange: Exchange) -> None:
        """One request, from its headers to the end of its answer and of its hold."""
        self.running += 1
        surface, request_id = exchange.head.surface, self.ids.new("req")
        back: Answering = exchange
        recorder: Recorder | None = None
        try:
            call, claimed = await self._read(request_id, exchange)
            if isinstance(claimed, Replay):
                exchange.answer(claimed.status, claimed.lines + _REPLAYED, claimed.body)
                return
            if claimed:  # it is carried to its end: the client will ask again
                back = recorder = Recorder(exchange, claimed, self.answers)
                request_id, call.client = call.request_id, None
            if call.stream:
                await self._stream(surface, call, back)
            else:
                await self._answer(surface, call, back)
        except ClientGone:
            return
        except SpendgateError as error:
            self._refuse(surface, problem_of(error), request_id, back)
        except UpstreamError as error:
            self._refuse(surface, problem_of_upstream(error), request_id, back)
        finally:
            try:
                if recorder:
                    await recorder.close()
            finally:
                self._ended()

    def _ended(self) -> None:
        self.running -= 1
        if not self.running and self._idle is not None:
            self._idle.set()

    async def until_idle(self) -> None:
        """Return once no call runs."""
        while self.running:
            self._idle = self._idle or asyncio.Event()
            self._idle.clear()
            await self._idle.wait()

    async def _claim(self, key: str, call: Call, path: str, raw: bytes) -> Claim | Replay:
        """Take the caller's Idempotency-Key, and derive the call's id from it."""
        name = claim_name(call.key_id, key)
        claimed = await self.answers.claim(name, fingerprint(path, raw, call.chain), call.request_id)
        if isinstance(claimed, Claim):
            call.request_id = derived_id("req", name, str(claimed.tries))
        return claimed

    async def _read(self, request_id: str, exchange: Exchange) -> tuple[Call, Claim | Replay | None]:
        received_ms, received_s, head = self.clock.now_ms(), self.clock.monotonic_s(), exchange.head
        surface, headers = head.surface, head.headers
        if headers is None:
            headers = head.headers = read_headers(head.pairs, self.limits)
            head.pairs = []
        payer = head.payer
        if payer is not None and payer[0] == self.callers.keys.changes:
            key = payer[1]
        else:
            payer, key = None, self.callers.known(headers) or await self.callers.authenticate(headers)
            changes = self.callers.keys.changes  # now: while the body is awaited the key may be taken away
        why_not = self.ready()
        if why_not:
            raise NotReady(why_not)
        raw = exchange.whole_body()
        if raw is None or len(raw) > self.limits.body_bytes or "content-encoding" in headers:
            raw = await read_body(headers, exchange.receive, self.limits, raw)
        data = read_json_object(raw)
        parsed = surface.parse(data)
        if payer is not None and parsed.scope is None:
            chain = payer[2]
        else:
            chain = self.callers.chain(key, headers, parsed.scope)
            if payer is None and parsed.scope is None:
                head.payer = changes, key, chain
        call = Call(
            request_id=request_id,
            surface=surface.name,
            operation=parsed.operation,
            asked=parsed.asked,
            body=parsed.body,
            stream=parsed.stream,
            wants_usage=parsed.wants_usage,
            raw_bytes=len(raw),
            chain=chain,
            key_id=key.id,
            received_ms=received_ms,
            received_s=received_s,
            traceparent=headers.get("traceparent"),
            client=exchange,
        )
        if "idempotency-key" not in headers:
            return call, None
        return call, await self._claim(headers["idempotency-key"], call, head.path, raw)

    async def _answer(self, surface: Surface, call: Call, back: Answering) -> None:
        answered = await self.flow.answer(call)
        if isinstance(answered, Refused):
            self._refuse(surface, problem_of_refusal(call, answered), call.request_id, back)
            return
        latency_s = self.clock.monotonic_s() - call.received_s
        overhead_s = latency_s - answered.attempt.upstream_s
        lines = call_lines(
            call, answered.attempt, answered.standing, answered.skipped_circuits, overhead_s, answered.cost_nano
        )
        back.answer(200, lines + _JSON, surface.answer(answered, latency_s))

    async def _stream(self, surface: Surface, call: Call, back: Answering) -> None:
        opened = await self.flow.open(call)
        if isinstance(opened, Refused):
            self._refuse(surface, problem_of_refusal(call, opened), call.request_id, back)
            return
        try:
            shape = AgentStream() if surface.name == "agent" else OpenAIStream(call.wants_usage)
            await pump(self.flow, opened, shape, self._stream_lines(call, opened), back)
        finally:
            self.flow.budgets.let_go(opened.attempt.admission)

    def _stream_lines(self, call: Call, opened: OpenedStream) -> str:
        attempt = opened.attempt
        overhead_s = self.clock.monotonic_s() - call.received_s - attempt.upstream_s
        standing = standing_now(attempt.admission)
        return call_lines(call, attempt, standing, opened.skipped_circuits, overhead_s, None) + _EVENTS

    def _refuse(self, surface: Surface, problem: Problem, request_id: str, back: Answering) -> None:
        log.info("%s: %d %s", request_id, problem.status, problem.code)
        lines = _JSON + header_lines({"X-Request-Id": request_id}) + problem.lines
        if problem.status == Unauthorized.status:
            lines += "WWW-Authenticate: Bearer\r\n"
        back.answer(problem.status, lines, surface.problem(problem), close=problem.status in _UNREAD)


class NotReady(SpendgateError):
    """Calls can't be admitted yet."""

    status = 503
    code = "not_ready"
    retry_after_s = 1
