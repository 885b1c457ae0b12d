"""The serving endpoints: one call from its body to its bill.

1. The bearer token is checked, the body read, the endpoint found (`Serving.handle`).
2. A fault is taken: the header's, else the model's, else the one for all models. An error ends the call here.
3. The request is checked and planned; the rate limit admits it, with its max_tokens reserved.
4. After the model's latency the prompt is billed, then the answer: at once, or chunk by chunk as it is made.
   A client that goes away stops a stream and its bill; a call that is not streamed is made and billed anyway.
5. What was reserved and not used is given back.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from core.clock import Clock
from core.errors import InvalidInput
from core.ids import RandomIds
from simulator.asgi import (
    Headers,
    Receive,
    Send,
    parse_object,
    read_body,
    send_bytes,
    send_error,
    until_closed,
)
from simulator.auth import Doorkeeper
from simulator.bill import Bill, CallRecord
from simulator.chat import ChatPlan, answer_body, plan_chat
from simulator.embeddings import EmbeddingsPlan, embeddings_body, plan_embeddings
from simulator.errors import CallError, fault_error, invalid_parameter, unknown_endpoint
from simulator.faults import Fault, FaultKind, FaultPlan, parse_fault_header
from simulator.faulty import GARBAGE, breaks_off, chat_events, flood, floods, reported_usage, spoil
from simulator.limits import RateLimit
from simulator.settings import ModelSettings, SimulatorSettings

_EVENT_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
]


@dataclass(slots=True)
class Endpoint:
    """A served model with what changes at run time."""

    name: str
    settings: ModelSettings
    limit: RateLimit
    faults: FaultPlan

    @property
    def served_name(self) -> str:
        """What answers call it."""
        return self.settings.served_name or self.name


@dataclass(slots=True)
class Exchange:
    """One HTTP exchange. reply_headers: sent with any answer. record: set once a model is known."""

    headers: Mapping[bytes, bytes]
    receive: Receive
    send: Send
    request_id: str
    reply_headers: Headers = field(default_factory=list)
    record: CallRecord | None = None


class Serving:
    """All endpoints, their bill and their faults. in_flight: calls being handled, hung ones too."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self.endpoints = {
            name: Endpoint(name, model, RateLimit(clock), FaultPlan(model.faults))
            for name, model in settings.models.items()
        }
        self.bill = Bill(Path(settings.bill_path) if settings.bill_path else None)
        self.door = Doorkeeper(settings, clock)
        self.common_faults = FaultPlan()
        self.in_flight = 0
        self._max_body_bytes = settings.max_body_bytes
        self._clock = clock
        self._ids = RandomIds(clock)

    def reset(self) -> None:
        """Bill and rate limit windows to zero; faults and settings stay."""
        self.bill.reset()
        for endpoint in self.endpoints.values():
            endpoint.limit = RateLimit(self._clock)

    def find(self, name: object) -> Endpoint:
        """The endpoint of this name, if it is served.

        Raises:
            CallError: 404, unknown or retired; 400, no name.
        """
        if not isinstance(name, str) or not name:
            raise invalid_parameter("model must name a serving endpoint.")
        endpoint = self.endpoints.get(name)
        if endpoint is None or endpoint.settings.retired:
            raise unknown_endpoint(name)
        return endpoint

    async def handle(
        self, name: str | None, kind: str | None, headers: Mapping[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        """Answer one call; `name` comes from the path, or is None and the body's ``model`` says it.

        kind: what the path is for, ``chat`` or ``embedding``; None takes either.
        """
        self.bill.received()
        self.in_flight += 1
        request_id = self._ids.new("chatcmpl")
        exchange = Exchange(headers, receive, send, request_id, [(b"x-request-id", request_id.encode())])
        try:
            self.door.check(headers.get(b"authorization"))
            body = parse_object(await read_body(receive, headers, self._max_body_bytes))
            endpoint = self.find(name or body.get("model"))
            if kind is not None and endpoint.settings.kind != kind:
                raise invalid_parameter(f"The endpoint {endpoint.name} is not for {kind} requests.")
            await self._invoke(exchange, endpoint, body)
        except CallError as error:
            if exchange.record is not None:
                exchange.record.status = error.status
            await send_error(send, error, exchange.reply_headers)
        finally:
            self.in_flight -= 1

    async def _invoke(self, exchange: Exchange, endpoint: Endpoint, body: Mapping[str, Any]) -> None:
        record = exchange.record = self.bill.open(endpoint.name, self._clock.now_ms())
        _note(record, body)
        fault = self._fault(exchange, endpoint)
        if fault is not None:
            await _wait_ms(fault.delay_ms)
            error = fault_error(fault, endpoint.name)
            if error is not None:
                raise error
        model = endpoint.settings
        if model.kind == "chat":
            plan = plan_chat(body, model, _wanted(exchange.headers, model), exchange.request_id)
            output_tokens = plan.max_tokens or model.default_reserved_tokens
            reserved = plan.prompt_tokens + len(plan.choices) * output_tokens
            work: ChatPlan | EmbeddingsPlan = plan
        else:
            work = plan_embeddings(body)
            reserved = work.prompt_tokens
        window = endpoint.limit.admit(endpoint.name, model, reserved)
        try:
            await self._serve(exchange, endpoint, work, fault, record)
        finally:
            used = record.prompt_tokens + record.completion_tokens
            endpoint.limit.give_back(window, reserved - used)

    async def _serve(
        self,
        exchange: Exchange,
        endpoint: Endpoint,
        plan: ChatPlan | EmbeddingsPlan,
        fault: Fault | None,
        record: CallRecord,
    ) -> None:
        await _wait_ms(endpoint.settings.latency_ms)
        if fault is not None and fault.kind is FaultKind.HANG:
            if fault.billed:
                self.bill.charge_prompt(record, plan.prompt_tokens)
            await until_closed(exchange.receive)
            return
        self.bill.charge_prompt(record, plan.prompt_tokens)
        record.status = 200
        exchange.reply_headers.append((b"served-model-name", endpoint.served_name.encode()))
        if isinstance(plan, EmbeddingsPlan):
            answer = embeddings_body(plan, endpoint.settings.dimensions, endpoint.served_name)
            await _send_answer(exchange, answer, fault)
        elif fault is not None and floods(fault, stream=plan.stream):
            self.bill.charge_output(record, plan.completion_tokens)
            await _flood(exchange, fault, answer_body(plan, exchange.request_id, 0, endpoint.name), plan.stream)
        elif plan.stream:
            record.streamed = True
            await self._stream(exchange, endpoint, plan, fault, record)
        else:
            self.bill.charge_output(record, plan.completion_tokens)
            answer = answer_body(plan, exchange.request_id, self._now_s(), endpoint.served_name)
            await _send_answer(exchange, answer, fault)

    async def _stream(
        self, exchange: Exchange, endpoint: Endpoint, plan: ChatPlan, fault: Fault | None, record: CallRecord
    ) -> None:
        model, send = endpoint.settings, exchange.send
        head = {
            "id": exchange.request_id,
            "object": "chat.completion.chunk",
            "created": self._now_s(),
            "model": endpoint.served_name,
        }
        headers = [*_EVENT_STREAM, *exchange.reply_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        client_gone = asyncio.ensure_future(until_closed(exchange.receive))
        try:
            for event, tokens in chat_events(plan, head, model.tokens_per_chunk, fault):
                if client_gone.done():
                    return
                self.bill.charge_output(record, tokens)
                await send({"type": "http.response.body", "body": event, "more_body": True})
                await _between_chunks(client_gone, model.chunk_delay_ms)
        finally:
            client_gone.cancel()
        if not breaks_off(fault):
            await send({"type": "http.response.body", "body": b""})

    def _fault(self, exchange: Exchange, endpoint: Endpoint) -> Fault | None:
        header = exchange.headers.get(b"x-simulate-fault")
        if header is not None:
            try:
                return parse_fault_header(header.decode("latin-1"))
            except InvalidInput as error:
                raise invalid_parameter(f"x-simulate-fault: {error.message}") from None
        return endpoint.faults.take() or self.common_faults.take()

    def _now_s(self) -> int:
        return self._clock.now_ms() // 1000


def _note(record: CallRecord, body: Mapping[str, Any]) -> None:
    """Keep what the caller wants to find its usage by."""
    request_id, context = body.get("client_request_id"), body.get("usage_context")
    record.client_request_id = request_id if isinstance(request_id, str) else None
    record.usage_context = context if isinstance(context, dict) else None


def _wanted(headers: Mapping[bytes, bytes], model: ModelSettings) -> int | None:
    header = headers.get(b"x-simulate-output-tokens")
    if header is None:
        return model.output_tokens
    if not header.isdigit():
        raise invalid_parameter("x-simulate-output-tokens must be an integer of at least 0.")
    return int(header)


async def _send_answer(exchange: Exchange, answer: dict[str, Any], fault: Fault | None) -> None:
    if fault is not None:
        usage = reported_usage(answer.pop("usage"), fault)
        if usage is not None:
            answer["usage"] = usage
    body = orjson.dumps(answer)
    body = GARBAGE if fault is not None and fault.kind is FaultKind.GARBAGE else spoil(body, fault)
    if not breaks_off(fault):
        await send_bytes(exchange.send, 200, body, exchange.reply_headers)
        return
    headers = [(b"content-length", b"%d" % len(body)), *exchange.reply_headers]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    # Returning with the body incomplete makes the server drop the connection.
    await exchange.send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})


async def _flood(exchange: Exchange, fault: Fault, answer: dict[str, Any], stream: bool) -> None:
    """A body that is too large or too slow, until it is all sent or the client has gone."""
    kind = _EVENT_STREAM if stream else [(b"content-type", b"application/json")]
    packed = [(b"content-encoding", b"gzip")] if fault.kind is FaultKind.GZIP_BOMB else []
    headers = [*kind, *packed, *exchange.reply_headers]
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    client_gone = asyncio.ensure_future(until_closed(exchange.receive))
    try:
        for piece in flood(fault, orjson.dumps(answer), stream=stream):
            if client_gone.done():
                return
            await exchange.send({"type": "http.response.body", "body": piece, "more_body": True})
            await _between_chunks(client_gone, fault.drip_ms if fault.kind is FaultKind.DRIP else 0)
    finally:
        client_gone.cancel()
    await exchange.send({"type": "http.response.body", "body": b""})


async def _between_chunks(client_gone: asyncio.Future[None], delay_ms: float) -> None:
    """Wait for the next chunk, or for the client to go away. Without a delay the loop still turns."""
    if delay_ms > 0:
        await asyncio.wait({client_gone}, timeout=delay_ms / 1000)
    else:
        await asyncio.sleep(0)


async def _wait_ms(delay_ms: float) -> None:
    if delay_ms > 0:
        await asyncio.sleep(delay_ms / 1000)
