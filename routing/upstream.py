"""The port to model providers. Adapters speak OpenAI's shapes inwards, whatever they speak outwards."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Any, Protocol

from core.values import value
from routing.model import Model


@value
class UpstreamCall:
    """One attempt at one model.

    body: an OpenAI-shaped request without ``model`` and ``stream``; not changed by the adapter.
    operation: ``chat`` or ``embeddings``.
    attempt_id: the hold's id; adapters send it (or its UUID) where the provider records it.
    timeout_s: for the whole answer; for a stream, until its first event and between two events.
    usage_context: strings that the provider records with its usage, if it can (Databricks).
    traceparent: W3C trace context to pass on, or None.
    """

    model: Model
    body: Mapping[str, Any]
    operation: str
    attempt_id: str
    timeout_s: float
    usage_context: Mapping[str, str] = field(default_factory=dict)
    traceparent: str | None = None


@value
class UpstreamAnswer:
    """A complete answer in OpenAI's shape, checked to be a JSON object. raw: the same as it came, if it came so."""

    body: dict[str, Any]
    raw: bytes = b""


class UpstreamStream(Protocol):
    """An open stream; its first event has not been read yet, the status has."""

    async def pour(self, take: Callable[[list[bytes]], bool], drained: Callable[[], Awaitable[object]]) -> None:
        """Give `take` OpenAI-shaped JSON payloads as they come, those that came together at once; one per SSE
        ``data:`` line, without the prefix; ``[DONE]`` is not given.

        take: returns whether it can take more at once; it may be called from the event loop, outside of any task.
        drained: returns once it can.

        Raises:
            UpstreamError: kind TIMEOUT or BROKEN when the stream stalls, breaks off or ends without its end mark.
            Exception: what `take` raised; it is called no more.
        """
        ...

    async def close(self) -> None:
        """Drop the connection so that the provider stops generating. May be called twice."""
        ...


class Upstream(Protocol):
    """One endpoint of a provider."""

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """A call that is answered at once.

        Raises:
            UpstreamError: any failure, sorted by `FailureKind`.
        """
        ...

    async def open_stream(self, call: UpstreamCall) -> UpstreamStream:
        """A call that is answered in a stream, opened up to its status line.

        Raises:
            UpstreamError: any failure up to there.
        """
        ...

    async def close(self) -> None:
        """Close pooled connections."""
        ...
