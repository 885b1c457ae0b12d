"""The provider: answers, errors, breaks off, hangs; keeps its own bill, which is the truth.

A token is four bytes of text. It generates no more than `max_tokens`, unless the seed says that it ignores them.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

import orjson

from budget.model import HoldStatus
from core.clock import SystemClock
from routing.adapters.registry import Upstreams
from routing.errors import FailureKind, UpstreamError
from routing.model import Model
from routing.upstream import Upstream, UpstreamAnswer, UpstreamCall
from telemetry.prices import Price
from tests.simulation.books import Books
from tests.simulation.catalog import PRICES, ROUTES
from tests.simulation.loop import OWNER, SimLoop

TOKEN = "tok "
#: Failures for which nothing is billed.
_FREE = tuple(k for k in FailureKind if k not in (FailureKind.TIMEOUT, FailureKind.BROKEN))
_ENDLESS_TOKENS = 100_000
#: What the answer's usage may be besides right.
_BAD_USAGE = ("none", "zero", "negative", "text", "absurd", "contradiction", "float")


@dataclass(slots=True)
class Sent:
    """A request that reached the provider.

    bill_nano: what it charges. said: how it told its usage; "" not at all. over: it generated more than it was
        allowed to. free: it refused, and said so. closed_s: of a stream, when the connection was given up.
    """

    attempt_id: str
    price: Price
    input_tokens: int
    max_tokens: int
    choices: int
    bill_nano: int = 0
    output_tokens: int = 0
    said: str = ""
    over: bool = False
    free: bool = False
    stream: bool = False
    closed_s: float | None = None

    def generate(self, tokens: int) -> None:
        """More output, on the bill."""
        self.output_tokens += tokens
        pico = self.input_tokens * self.price.input_pico + self.output_tokens * self.price.output_pico
        self.bill_nano = (pico + 999) // 1000 + self.price.request_nano

    def usage(self, rng: Random) -> dict[str, Any]:
        """The truth, in OpenAI's words."""
        usage: dict[str, Any] = {"prompt_tokens": self.input_tokens, "completion_tokens": self.output_tokens}
        if rng.random() < 0.2:
            usage["completion_tokens_details"] = {"reasoning_tokens": rng.randint(0, self.output_tokens)}
        return usage


@dataclass(slots=True)
class Moods:
    """How often what happens. bad: failures; broken: of streams, in the middle; bad_usage: shares of the answers.

    over: share of the answers that ignore max_tokens. slow_s: the longest that an answer takes.
    exact: every answer is as long as it may be.
    """

    bad: float = 0.0
    broken: float = 0.0
    bad_usage: float = 0.0
    over: float = 0.0
    slow_s: float = 0.5
    exact: bool = False


@dataclass(slots=True)
class Provider:
    """The one provider behind all workers."""

    loop: SimLoop
    books: Books
    rng: Random
    moods: Moods = field(default_factory=Moods)
    sent: dict[str, Sent] = field(default_factory=dict)
    streams: list["SimStream"] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def take(self, call: UpstreamCall) -> Sent:
        """A request arrives; it must have money behind it."""
        hold = self.books.memory.holds.get(call.attempt_id)
        self.books.insist(hold is not None, "no call without a hold", call.attempt_id)
        assert hold is not None
        self.books.insist(
            hold.status in (HoldStatus.HELD, HoldStatus.EXPIRED), "no call on money that was released", hold
        )
        self.books.insist(call.attempt_id not in self.sent, "one call for each hold", call.attempt_id)
        max_tokens = call.body.get("max_tokens") or call.body.get("max_completion_tokens")
        self.books.insist(max_tokens == hold.tokens, "max_tokens is what was granted", call.body, hold)
        text = sum(len(m["content"]) for m in call.body["messages"])
        price = PRICES.price_at(call.model.name, self.books.memory.now_ms())
        sent = Sent(call.attempt_id, price, max(1, text // 4), hold.tokens, call.body.get("n") or 1)
        self.sent[call.attempt_id] = sent
        return sent

    def length(self, sent: Sent) -> int:
        """How many tokens the answer has."""
        most = sent.max_tokens * sent.choices
        if self.moods.exact:
            return most
        if self.rng.random() < self.moods.over:
            sent.over = True
            self.seen["more than max_tokens"] += 1
            return most * self.rng.randint(2, 6)
        return most if self.rng.random() < 0.3 else self.rng.randint(0, most)

    def tell(self, sent: Sent) -> object:
        """The usage as the provider tells it; what it tells too much, it bills."""
        if self.rng.random() >= self.moods.bad_usage:
            sent.said = "right"
            return sent.usage(self.rng)
        sent.said = self.rng.choice(_BAD_USAGE)
        self.seen[f"usage {sent.said}"] += 1
        bad: dict[str, object] = {
            "none": None,
            "zero": {"prompt_tokens": 0, "completion_tokens": 0},
            "negative": {"prompt_tokens": -5, "completion_tokens": 3},
            "text": {"prompt_tokens": "12", "completion_tokens": "x"},
            "absurd": {"prompt_tokens": 10**15, "completion_tokens": 1},
            "contradiction": {
                "prompt_tokens": 1,
                "completion_tokens": 1,
                "prompt_tokens_details": {"cached_tokens": 99},
            },
            "float": {"prompt_tokens": 1.5, "completion_tokens": float("inf")},
        }
        return bad[sent.said]


class SimUpstream:
    """`routing.upstream.Upstream` to that provider."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        provider, rng = self._provider, self._provider.rng
        sent = provider.take(call)
        await self._fail_perhaps(call, sent)
        sent.generate(provider.length(sent))  # it does not hear that we went away
        shown = min(sent.output_tokens, 20) if provider.moods.exact else sent.output_tokens
        body: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": TOKEN * shown}}]}
        usage = provider.tell(sent)
        if usage is not None:
            body["usage"] = usage
        await asyncio.sleep(rng.random() * provider.moods.slow_s)
        return UpstreamAnswer(body)

    async def open_stream(self, call: UpstreamCall) -> "SimStream":
        provider = self._provider
        sent = provider.take(call)
        sent.stream = True
        await self._fail_perhaps(call, sent)
        sent.generate(0)
        stream = SimStream(provider, sent, call.timeout_s)
        provider.streams.append(stream)
        return stream

    async def close(self) -> None:
        return

    async def _fail_perhaps(self, call: UpstreamCall, sent: Sent) -> None:
        provider, rng = self._provider, self._provider.rng
        if rng.random() >= provider.moods.bad:
            return
        fate = rng.random()
        if fate < 0.6:
            kind = rng.choice(_FREE)
            await asyncio.sleep(rng.random() * 0.2)
            sent.free = True
            provider.seen["failed free"] += 1
            raise UpstreamError(kind, "no", retry_after_s=rng.choice((None, None, 0.05, 1.0, 30.0)))
        provider.seen["failed, perhaps charged"] += 1
        if rng.random() < 0.7:
            sent.generate(provider.length(sent))
        if fate < 0.75:
            await asyncio.sleep(call.timeout_s)
            raise UpstreamError(FailureKind.TIMEOUT, "no answer")
        await asyncio.sleep(rng.random() * 0.5)
        if fate > 0.97:
            raise RuntimeError("a bug in an adapter")
        raise UpstreamError(FailureKind.BROKEN, "reset")


class SimStream:
    """An answer in pieces; what was not asked for any more is not generated."""

    def __init__(self, provider: Provider, sent: Sent, timeout_s: float) -> None:
        self._provider = provider
        self.sent = sent
        self._timeout_s = timeout_s
        rng = provider.rng
        self._left = provider.length(sent)
        self._piece = max(1, self._left // rng.randint(1, 5))
        if sent.over and rng.random() < 0.2:
            self._left, self._piece = _ENDLESS_TOKENS, _ENDLESS_TOKENS // 20
        breaks = rng.random() < provider.moods.broken
        self._breaks_after: int | None = rng.randint(0, 4) if breaks else None
        self._told = False
        self._everywhere = rng.random() < 0.1
        self._owner = OWNER.get()

    def owner_died(self) -> bool:
        """The connection ended with its process."""
        return self._owner is not None and self._owner.dead

    async def pour(self, take: Callable[[list[bytes]], bool], drained: Callable[[], Awaitable[object]]) -> None:
        async for payload in self:
            if not take([payload]):
                await drained()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        provider, rng, sent = self._provider, self._provider.rng, self.sent
        provider.books.insist(sent.closed_s is None, "nobody reads a closed stream", sent)
        await asyncio.sleep(rng.random() * provider.moods.slow_s / 3)
        if self._breaks_after is not None:
            self._breaks_after -= 1
            if self._breaks_after < 0:
                return await self._break()
        if self._left > 0:
            provider.books.insist(
                self._left > self._piece or self._piece * 20 != _ENDLESS_TOKENS, "a stream ends", sent
            )
            count = min(self._piece, self._left)
            self._left -= count
            sent.generate(count)
            chunk: dict[str, Any] = {"choices": [{"index": 0, "delta": {"content": TOKEN * count}}]}
            if self._everywhere:
                chunk["usage"] = sent.usage(rng)
            return orjson.dumps(chunk)
        if not self._told:
            self._told = True
            usage = provider.tell(sent)
            if usage is not None and sent.said != "float":
                return orjson.dumps({"choices": [], "usage": usage})
        raise StopAsyncIteration

    async def _break(self) -> bytes:
        if self._provider.rng.random() < 0.3:
            await asyncio.sleep(self._timeout_s)
            raise UpstreamError(FailureKind.TIMEOUT, "stalled")
        if self._provider.rng.random() < 0.3:
            self._breaks_after = 0
            self._left = 0
            self._provider.seen["garbage"] += 1
            return b"\xff{garbage"
        raise UpstreamError(FailureKind.BROKEN, "reset")

    async def close(self) -> None:
        if self.sent.closed_s is None:
            self.sent.closed_s = self._provider.loop.time()


class SimUpstreams(Upstreams):
    """All endpoints are that provider."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(ROUTES, SystemClock())
        self._sim = SimUpstream(provider)

    def for_model(self, model: Model) -> Upstream:
        return self._sim
