"""Clients: they ask, listen more or less well, leave in the middle, and ask again."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from gateway.heads import RequestHead
from gateway.http import Message
from tests.simulation.catalog import BIG, KEY_TEXT, MID, SMALL
from tests.simulation.loop import SimLoop
from tests.simulation.worker import SimWorker

_OPENAI, _DATABRICKS, _AGENT = "/v1/chat/completions", "/serving-endpoints/chat/completions", "/agent/chat"


@dataclass(slots=True)
class Wish:
    """What a client wants and how it behaves.

    leave_after_s: then it hangs up. deaf: sending to it fails once it has. slow_s: it reads this slowly.
    """

    body: dict[str, Any]
    path: str = _OPENAI
    scope: str = ""
    idempotency_key: str = ""
    leave_after_s: float | None = None
    deaf: bool = False
    slow_s: float = 0.0


@dataclass(slots=True)
class Client:
    """One request, on one connection: a `gateway.http.Exchange`."""

    loop: SimLoop
    wish: Wish
    raw: bytes = b""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    replayed: bool = False
    gone_s: float | None = None
    task: "asyncio.Task[Any] | None" = None
    head: RequestHead = field(init=False)
    gone: bool = False
    on_leave: Callable[[], None] | None = None

    def ask(self, worker: SimWorker) -> None:
        """Send the request to a worker."""
        self.raw = orjson.dumps(self.wish.body)
        headers = {"authorization": f"Bearer {KEY_TEXT}", "content-length": str(len(self.raw))}
        if self.wish.scope:
            headers["x-budget-scopes"] = self.wish.scope
        if self.wish.idempotency_key:
            headers["idempotency-key"] = self.wish.idempotency_key
        surface = worker.hot.surface(self.wish.path)
        assert surface is not None
        pairs = [(k.encode(), v.encode()) for k, v in headers.items()]
        self.head = RequestHead(surface, self.wish.path, pairs)
        self.task = worker.spawn(worker.hot.serve(self))
        worker.requests.append(self.task)
        if self.wish.leave_after_s is not None:
            self.loop.call_later(self.wish.leave_after_s, self.leave, context=self.loop.outside)

    def leave(self) -> None:
        """Hang up."""
        if not self.gone and not self.complete:
            self.gone, self.gone_s = True, self.loop.time()
            if self.on_leave is not None:
                self.on_leave()

    def whole_body(self) -> bytes | None:
        """It came at once."""
        return self.raw

    async def receive(self) -> Message:
        """Nothing is left of the body."""
        raise NotImplementedError

    def answer(self, status: int, lines: str, body: bytes, *, close: bool = False) -> None:
        """A whole answer."""
        self.begin(status, lines)
        self.end(body)

    def begin(self, status: int, lines: str) -> None:
        """Its head."""
        self._hear()
        self.status = status
        self.replayed = "Idempotency-Replayed" in lines

    def write(self, data: bytes) -> None:
        """A piece of it."""
        self._hear()
        self.body += data

    @property
    def full(self) -> bool:
        """It reads at its pace."""
        return self.wish.slow_s > 0

    async def drained(self) -> None:
        """It reads at its pace."""
        if self.wish.slow_s:
            await asyncio.sleep(self.wish.slow_s)

    def end(self, data: bytes) -> None:
        """The last piece."""
        self._hear()
        self.body += data
        self.complete = True

    def _hear(self) -> None:
        if self.gone and self.wish.deaf:
            raise OSError("the client has gone")


def wish_of(rng: Random) -> Wish:
    """A client's wish."""
    text, stream = "word" * rng.randint(1, 12), rng.random() < 0.5
    model = rng.choice((BIG, BIG, MID, SMALL))
    if rng.random() < 0.15:
        wish = Wish(_agent_body(rng, text, stream, model), _AGENT)
    else:
        wish = Wish(_openai_body(rng, text, stream, model), rng.choice((_OPENAI, _OPENAI, _OPENAI, _DATABRICKS)))
    if wish.path != _AGENT and rng.random() < 0.2:
        wish.scope = "agent:other"
    if rng.random() < 0.3:
        wish.idempotency_key = f"k{rng.randint(0, 9)}"
    if rng.random() < 0.25:
        wish.leave_after_s = rng.random() ** 2 * 2
        wish.deaf = rng.random() < 0.3
    if rng.random() < 0.1:
        wish.slow_s = rng.random() * 0.2
    return wish


def _openai_body(rng: Random, text: str, stream: bool, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "stream": stream, "model": model}
    if rng.random() < 0.8:
        body[rng.choice(("max_tokens", "max_completion_tokens"))] = rng.choice((1, 10, 30, 60, 100))
    if rng.random() < 0.1:
        body["n"] = 2
    if stream and rng.random() < 0.4:
        body["stream_options"] = {"include_usage": True}
    return body


def _agent_body(rng: Random, text: str, stream: bool, model: str) -> dict[str, Any]:
    body: dict[str, Any] = {"prompt": text, "stream": stream}
    if rng.random() < 0.5:
        body["modelId"] = model
    if rng.random() < 0.5:
        body["maxTokens"] = rng.choice((1, 10, 60))
    if rng.random() < 0.3:
        body |= {"scopeType": "agent", "scopeKey": "other"}
    return body
