"""What providers with OpenAI's shapes have in common: answers, streams, and fields that not every model takes."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import orjson

from core.clock import Clock
from core.ids import id_to_uuid
from routing.adapters.failures import clean_message, read_vendor_error, refusal
from routing.adapters.http import EventSource, Reply, broken, header_lines
from routing.adapters.http_events import Drained, Take
from routing.adapters.sse import DONE
from routing.errors import UpstreamError
from routing.upstream import UpstreamAnswer, UpstreamCall

#: With the white space that some servers put around the end mark.
_DONE_BYTES = 32

Got = TypeVar("Got", Reply, Reply | EventSource)

#: What the adapter itself decides; a caller's own values are not passed on.
_OURS = frozenset({"model", "stream", "stream_options", "client_request_id", "usage_context"})
JSON_HEADERS = {"Content-Type": "application/json"}
#: What asks for usage at the end of a stream; not every model takes it.
STREAMING_FIELDS = {"stream_options": {"include_usage": True}}
#: How a 400 names a field that it does not take, other than by the field's name.
_ALSO_NAMED = {"stream_options": (b"stream_options", b"include_usage")}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def wire_body(call: UpstreamCall) -> dict[str, Any]:
    """The caller's body without what the adapter decides; a copy."""
    if _OURS.isdisjoint(call.body):
        return dict(call.body)
    return {name: value for name, value in call.body.items() if name not in _OURS}


def call_lines(call: UpstreamCall, *, id_header: str | None = None) -> bytes:
    """The headers of one call: the id by which a Helicone webhook names it, its W3C trace context.

    id_header: what the provider calls the attempt's id, if it wants it.
    """
    own_id = call.attempt_id
    lines = f"Helicone-Request-Id: {id_to_uuid(own_id)}\r\n"
    if id_header:
        ours = own_id.isascii() and own_id.replace("_", "").isalnum()
        lines += f"{id_header}: {own_id}\r\n" if ours else header_lines({id_header: own_id}).decode("latin-1")
    if call.traceparent and _TRACEPARENT.fullmatch(call.traceparent):
        lines += f"traceparent: {call.traceparent}\r\n"
    return lines.encode("latin-1")


class OptionalFields:
    """Fields that we add and a model may not take. Remembers per model what it refused.

    A refusal is remembered only once the same call has gone through without the field: the text of a 400 may
    quote the caller, who could otherwise switch off our usage reports.
    """

    def __init__(self) -> None:
        self._refused: dict[str, set[str]] = {}

    def accepted(self, model: str, optional: Mapping[str, Any]) -> Mapping[str, Any]:
        """Those of the fields that a model is not known to refuse."""
        refused = self._refused.get(model)
        if refused is None:
            return optional
        return {name: value for name, value in optional.items() if name not in refused}

    async def without_refused(
        self,
        model: str,
        body: Mapping[str, Any],
        fields: Mapping[str, Any],
        got: Got,
        ask: Callable[[Mapping[str, Any]], Awaitable[Got]],
    ) -> Got:
        """`got` answers `body` with `fields`: while it is a 400 or 422 that names some, ask once more without those."""
        dropped: set[str] = set()
        while named := _named(got, fields):
            dropped |= named
            fields = {name: value for name, value in fields.items() if name not in named}
            got = await ask({**body, **fields})
        if dropped and (isinstance(got, EventSource) or got.accepted):
            self._refused.setdefault(model, set()).update(dropped)
        return got


def _named(got: Reply | EventSource, fields: Mapping[str, Any]) -> set[str]:
    if isinstance(got, EventSource) or got.status not in (400, 422):
        return set()
    return {name for name in fields if any(n in got.body for n in _ALSO_NAMED.get(name, (name.encode(),)))}


def read_object(reply: Reply, clock: Clock) -> dict[str, Any]:
    """The JSON object in an accepted reply.

    Raises:
        UpstreamError: the reply is a refusal, or (BROKEN) holds no JSON object.
    """
    if not reply.accepted:
        raise refusal(reply, clock.now_ms())
    try:
        body = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        raise broken("the answer is no JSON") from None
    if not isinstance(body, dict):
        raise broken("the answer is no JSON object")
    return body


def read_answer(reply: Reply, clock: Clock) -> UpstreamAnswer:
    """A complete answer in OpenAI's shape.

    Raises:
        UpstreamError: as `read_object`; also BROKEN for an error that came with a 2xx.
    """
    body = read_object(reply, clock)
    if not ("choices" in body or "data" in body) and (body.get("error") or body.get("error_code")):
        raise _error_inside(reply.body)
    return UpstreamAnswer(body, reply.body)


class OpenAIStream:
    """An `UpstreamStream` over events that are OpenAI's chunks already: they pass as they come."""

    def __init__(self, source: EventSource) -> None:
        self._source = source

    async def pour(self, take: Take, drained: Drained) -> None:
        """The chunks; see `UpstreamStream.pour`."""
        ended = False

        def sift(payloads: list[bytes]) -> bool:
            nonlocal ended
            for number, payload in enumerate(payloads):
                if len(payload) < _DONE_BYTES and payload.strip() == DONE:
                    ended = True
                    self._source.finish()
                elif payload.startswith((b'{"error', b'{ "error')):
                    if number:
                        take(payloads[:number])
                    raise _error_inside(payload)
                else:
                    continue
                return take(payloads[:number]) if number else True
            return take(payloads)

        await self._source.pour(sift, drained)
        if not ended:
            raise broken("the stream ended without its end mark")

    async def close(self) -> None:
        """Drop the connection, unless the stream has ended."""
        self._source.close()


def open_stream(got: Reply | EventSource, clock: Clock) -> OpenAIStream:
    """The stream that was opened.

    Raises:
        UpstreamError: it was refused.
    """
    if isinstance(got, Reply):
        raise refusal(got, clock.now_ms())
    return OpenAIStream(got)


def _error_inside(payload: bytes) -> UpstreamError:
    """An error that came after the status said that all is well."""
    said = read_vendor_error(payload)
    error = broken(clean_message(said.message) or "the provider broke off with an error")
    error.vendor_code = said.code
    return error
