"""Streams: what comes is passed on as it comes, metered on the way; the hold always ends.

Failure policy: a client that goes away closes the upstream, and the call is settled by what was sent and received,
unless its endpoint says otherwise (`routing.model.OnAbort`).
An upstream that breaks off, stalls or sends nonsense is told to the client in the stream; the provider may have made
and charged the whole answer, so the whole hold is charged unless the usage came. One that goes on beyond max_tokens is
cut off, and what it sent is charged even where that is more than was held.
"""

import asyncio
import logging
from dataclasses import dataclass, replace
from typing import Any, Protocol

import orjson

from core.clock import Clock
from gateway.call import Answered
from gateway.chat import ChatFlow, OpenedStream
from gateway.errors import Problem, problem_of_upstream
from gateway.http import Answering, ClientGone, Interruptible
from gateway.record import ABORTED
from gateway.sizes import BEYOND, choices_of, message_bytes
from gateway.surfaces import agent_summary
from routing.errors import FailureKind, UpstreamError
from routing.model import OnAbort
from telemetry.usage import NO_USAGE, EstimatedUsage, ExactUsage, Usage, read_usage

log = logging.getLogger("spendgate.gateway")

_DONE = b"data: [DONE]\n\n"
#: Tokens of long words or white space have a few dozen bytes; no tokeniser averages as many.
_MOST_BYTES_PER_TOKEN = 64
_SLACK_BYTES = 16 * 1024
#: A chunk says much around a token (ids, log probabilities); more than this is a flood.
_MOST_WIRE_BYTES_PER_TOKEN = 8 * 1024
_WIRE_SLACK_BYTES = 2 * 1024 * 1024


class StreamShape(Protocol):
    """How a surface writes its events."""

    def event(self, payload: bytes, chunk: dict[str, Any] | None) -> bytes | None:
        """A chunk as it goes to the client; None: nothing. `chunk` is None where the payload is empty."""
        ...

    def end(self, answered: Answered, latency_s: float) -> bytes:
        """What follows the last chunk, before ``[DONE]``."""
        ...

    def failure(self, problem: Problem) -> bytes:
        """An error in mid-stream."""
        ...


class OpenAIStream:
    """Chunks pass through; the usage chunk that we asked for is hidden from a client that did not."""

    def __init__(self, wants_usage: bool) -> None:
        self._wants_usage = wants_usage

    def event(self, payload: bytes, chunk: dict[str, Any] | None) -> bytes | None:
        """The payload as it came."""
        if not self._wants_usage and chunk is not None and chunk.get("usage") and not chunk.get("choices"):
            return None
        return b"data: " + payload + b"\n\n"

    def end(self, answered: Answered, latency_s: float) -> bytes:
        """A comment line, which every SSE client skips, with what a header could not tell yet."""
        return b": spendgate " + orjson.dumps(agent_summary(answered, latency_s)) + b"\n\n"

    def failure(self, problem: Problem) -> bytes:
        """OpenAI's error object as an event; its SDKs raise it."""
        error = {"message": problem.message, "type": problem.type, "code": problem.code, "param": None}
        return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


class AgentStream:
    """``{"delta": text}`` and ``{"toolCalls": […]}`` as they come, then ``{"done": true, cost, model, …}``."""

    def event(self, payload: bytes, chunk: dict[str, Any] | None) -> bytes | None:
        """The text or the tool calls of a chunk."""
        choices = (chunk or {}).get("choices") or [{}]
        delta = choices[0].get("delta") or {}
        out = {}
        if delta.get("content"):
            out["delta"] = delta["content"]
        if delta.get("tool_calls"):
            out["toolCalls"] = delta["tool_calls"]
        return b"data: " + orjson.dumps(out) + b"\n\n" if out else None

    def end(self, answered: Answered, latency_s: float) -> bytes:
        """The summary that a complete answer has."""
        return b"data: " + orjson.dumps({"done": True} | agent_summary(answered, latency_s)) + b"\n\n"

    def failure(self, problem: Problem) -> bytes:
        """The error as an event."""
        error = {"type": problem.type, "code": problem.code, "message": problem.message}
        return b"data: " + orjson.dumps({"error": error}) + b"\n\n"


class Meter:
    """Reads usage off a stream; counts what was generated in case none comes. The last usage wins.

    began_s: when the first chunk came, by the monotonic clock.
    finished: whether the model has said its last; usage from then on is that of the whole answer.
    """

    def __init__(self, choices: int = 1) -> None:
        self._unfinished = choices
        self.began_s: float | None = None
        self.reported: object = None
        self.received_bytes = 0
        self.finished = False

    def read(self, payload: bytes) -> dict[str, Any] | None:
        """Take note of a chunk; its JSON, or None if it is none, or of another shape."""
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            self.received_bytes += len(payload)
            return None
        choices = choices_of(chunk, "delta") if isinstance(chunk, dict) else None
        if choices is None:
            self.received_bytes += len(payload)
            return None
        if chunk.get("usage"):
            self.reported = chunk["usage"]
            self.finished |= not choices  # OpenAI's last chunk, after those with a finish_reason
        for choice in choices:
            self.received_bytes += message_bytes(choice.get("delta"))
            self._unfinished -= bool(choice.get("finish_reason"))
        self.finished |= self._unfinished <= 0
        read: dict[str, Any] = chunk
        return read

    def whole_usage(self) -> ExactUsage | None:
        """Usage of the whole answer, if it has come."""
        usage = read_usage(self.reported) if self.finished else None
        return usage if isinstance(usage, ExactUsage) else None


class _EnoughRead(Exception):
    """The client has gone, and no more of its answer is read."""


async def pump(flow: ChatFlow, opened: OpenedStream, shape: StreamShape, lines: str, back: Answering) -> None:
    """Carry an open stream to the client, from the head of the response to its end, and settle it."""
    meter = Meter(opened.call.body.get("n") or 1)
    ending = _Ending()
    try:
        await _forward_while_wanted(flow, opened, shape, meter, lines, back, ending)
    finally:
        _end(flow, opened, shape, meter, back, ending)
        await opened.upstream.close()


@dataclass(slots=True)
class _Ending:
    """How a stream ended. complete: the upstream said its last, whether or not anybody was left to hear it."""

    outcome: str = ABORTED
    complete: bool = False
    failure: UpstreamError | None = None


async def _forward_while_wanted(
    flow: ChatFlow,
    opened: OpenedStream,
    shape: StreamShape,
    meter: Meter,
    lines: str,
    back: Answering,
    ending: _Ending,
) -> None:
    patience_s = flow.drain.time_s if opened.attempt.endpoint.on_abort is OnAbort.DRAIN else 0.0
    try:
        with Interruptible(opened.call.client, patience_s):
            await _forward(flow, opened, shape, meter, lines, back)
        ending.complete = True
        if not opened.call.left:
            ending.outcome = "answered"
    except (ClientGone, _EnoughRead, OSError):  # OSError: the client's socket
        return
    except UpstreamError as error:
        ending.failure = error
        if not opened.call.left:
            ending.outcome = error.kind.value


@dataclass(slots=True)
class _Bounds:
    """What a stream may be at most, in bytes: of text, as it is sent, and read after its client has gone."""

    text: int
    wire: int
    drain: int

    def check(self, meter: Meter, wire: int, drained: int) -> None:
        """Raises: UpstreamError: it is more. _EnoughRead: more than is read for nobody."""
        if meter.received_bytes > self.text:
            raise UpstreamError(FailureKind.BROKEN, "the stream goes on beyond max_tokens")
        if wire > self.wire:
            raise UpstreamError(FailureKind.BROKEN, f"the stream is larger than {self.wire} bytes")
        if drained > self.drain:
            raise _EnoughRead


def _bounds(flow: ChatFlow, opened: OpenedStream) -> _Bounds:
    """More bytes than the granted tokens can be: what goes on beyond is an endless stream, and is cut."""
    tokens = opened.attempt.admission.hold.tokens * (opened.call.body.get("n") or 1)
    wire = tokens * _MOST_WIRE_BYTES_PER_TOKEN + _WIRE_SLACK_BYTES
    return _Bounds(tokens * _MOST_BYTES_PER_TOKEN + _SLACK_BYTES, wire, flow.drain.max_bytes)


async def _forward(
    flow: ChatFlow, opened: OpenedStream, shape: StreamShape, meter: Meter, lines: str, back: Answering
) -> None:
    try:
        async with asyncio.timeout(flow.stream_timeout_s):
            back.begin(200, lines)
            await opened.upstream.pour(_Forwarding(flow, opened, shape, meter, back).take, back.drained)
    except TimeoutError:
        error = f"the stream takes longer than {flow.stream_timeout_s:g} s"
        raise UpstreamError(FailureKind.TIMEOUT, error) from None


class _Forwarding:
    """Carries what comes to the client, and meters it. wire: bytes of payloads; drained: of those that nobody hears."""

    __slots__ = ("_back", "_bounds", "_call", "_clock", "_drained", "_meter", "_shape", "_wire")

    def __init__(self, flow: ChatFlow, opened: OpenedStream, shape: StreamShape, meter: Meter, back: Answering) -> None:
        self._call = opened.call
        self._clock = flow.clock
        self._bounds = _bounds(flow, opened)
        self._shape = shape
        self._meter = meter
        self._back = back
        self._wire = self._drained = 0

    def take(self, payloads: list[bytes]) -> bool:
        """Pass these on; whether the client can be sent more at once.

        Raises:
            UpstreamError: the stream is none, or is larger than it can be. _EnoughRead: nobody hears it.
        """
        left, meter, shape = self._call.left, self._meter, self._shape
        if meter.began_s is None:
            meter.began_s = self._clock.monotonic_s()
        events: list[bytes] = []
        try:
            for payload in payloads:
                chunk = meter.read(payload)
                self._wire += len(payload)
                if left:
                    self._drained += len(payload)
                self._bounds.check(meter, self._wire, self._drained)
                if chunk is None and payload.strip():
                    raise UpstreamError(FailureKind.BROKEN, "an event of the stream is no chunk of an answer")
                event = shape.event(payload, chunk)
                if event is not None:
                    events.append(event)
        finally:
            if events and not left:
                self._back.write(events[0] if len(events) == 1 else b"".join(events))
        return left or not self._back.full


def _end(
    flow: ChatFlow, opened: OpenedStream, shape: StreamShape, meter: Meter, back: Answering, ending: _Ending
) -> None:
    """Settle, and tell the client how it ended, if it is there."""
    call, attempt, failure = opened.call, opened.attempt, ending.failure
    usage = _usage(flow, opened, meter, complete=ending.complete)
    if ending.outcome == ABORTED:
        whole_hold = attempt.endpoint.on_abort is OnAbort.CHARGE_HOLD
    else:
        whole_hold = failure is not None and not isinstance(usage, ExactUsage)
    cost, standing = flow.finish(call, attempt, usage, outcome=ending.outcome, whole_hold=whole_hold)
    if ending.outcome == ABORTED:
        return
    if failure is not None:
        log.warning("%s: the stream from %s broke: %s", call.request_id, attempt.model.name, failure.kind)
        flow.planner.health.failed(attempt.model.name, failure)
        last = shape.failure(problem_of_upstream(failure))
    else:
        flow.planner.health.succeeded(attempt.model.name)
        answered = Answered(call, attempt, None, usage, cost + opened.spent_before_nano, standing)
        last = shape.end(answered, _latency_s(flow.clock, opened)) + _DONE
    back.end(last)


def _usage(flow: ChatFlow, opened: OpenedStream, meter: Meter, *, complete: bool) -> Usage:
    """Usage that came with the end counts; usage on a chunk of a stream that then broke off says too little."""
    reported = read_usage(meter.reported)
    if complete and isinstance(reported, str):
        return flow.estimated(opened.call, opened.attempt, reported, meter.received_bytes)
    whole = reported if complete else meter.whole_usage()
    if isinstance(whole, ExactUsage):
        return whole
    seen_s = 0.0 if meter.began_s is None else flow.clock.monotonic_s() - meter.began_s
    estimated = flow.estimated(opened.call, opened.attempt, NO_USAGE, meter.received_bytes, cut_after_s=seen_s)
    if meter.received_bytes > _bounds(flow, opened).text:  # as many tokens as it can be: none has less than a byte
        return EstimatedUsage(replace(estimated.tokens, output=meter.received_bytes), BEYOND)
    if isinstance(reported, ExactUsage) and reported.tokens.all_output >= estimated.tokens.all_output:
        return reported
    return estimated


def _latency_s(clock: Clock, opened: OpenedStream) -> float:
    return clock.monotonic_s() - opened.call.received_s
