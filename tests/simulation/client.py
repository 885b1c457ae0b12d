"""Clients: they ask, listen more or less well, leave in the middle, and ask again."""

import asyncio
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

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
    """One request, on one connection."""

    loop: SimLoop
    wish: Wish
    raw: bytes = b""
    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    complete: bool = False
    replayed: bool = False
    gone_s: float | None = None
    task: "asyncio.Task[Any] | None" = None
    _left: "asyncio.Future[None] | None" = None
    _read: bool = False

    def ask(self, worker: SimWorker) -> None:
        """Send the request to a worker."""
        self.raw = orjson.dumps(self.wish.body)
        self._left = self.loop.create_future()
        headers = {"authorization": f"Bearer {KEY_TEXT}", "content-length": str(len(self.raw))}
        if self.wish.scope:
            headers["x-budget-scopes"] = self.wish.scope
        if self.wish.idempotency_key:
            headers["idempotency-key"] = self.wish.idempotency_key
        scope = {"path": self.wish.path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
        surface = worker.hot.surface(self.wish.path)
        assert surface is not None
        self.task = worker.spawn(worker.hot.serve(surface, scope, self.receive, self.send))
        worker.requests.append(self.task)
        if self.wish.leave_after_s is not None:
            self.loop.call_later(self.wish.leave_after_s, self.leave, context=self.loop.outside)

    def leave(self) -> None:
        """Hang up."""
        if self._left is not None and not self._left.done():
            self.gone_s = self.loop.time()
            self._left.set_result(None)

    async def receive(self) -> Message:
        """ASGI: the request, then the client's going away."""
        assert self._left is not None
        if not self._read:
            self._read = True
            return {"type": "http.request", "body": self.raw, "more_body": False}
        await asyncio.shield(self._left)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI: a piece of the answer."""
        if self.wish.slow_s:
            await asyncio.sleep(self.wish.slow_s)
        if self.gone_s is not None and self.wish.deaf:
            raise OSError("the client has gone")
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.replayed = any(name == b"idempotency-replayed" for name, _ in message["headers"])
            return
        self.body += message.get("body", b"")
        self.complete = not message.get("more_body", False)


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
