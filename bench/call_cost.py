"""What a call costs the gateway in Python alone, and what each piece of the hot path saves of it.

    python -m bench.call_cost [--rounds 9] [--calls 3000]

The whole path, from a request's bytes to its answer's, in one process and without sockets: client, store and provider
are played, and answer in the next turn of the loop. The path as it is takes turns with the path without one of its
pieces; printed are this process's CPU time for a call (of the fastest round: noise can only lengthen one) and what it
adds to leave the piece out. The last line is no piece of ours: it is what a call would cost that need not ask the store
before it leaves, which is the most that blocks held in advance could save (docs/decisions/0010-no-held-blocks.md). What
the system and the sockets cost is in `make bench`.
"""

import argparse
import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import uvicorn
import uvloop
from uvicorn.server import ServerState

import budget.hot_commands
from budget.book import BudgetBook
from budget.connect import connect
from budget.frames import Frame, Word, packed
from budget.model import Balance, Budget, BudgetState, Hold, ReserveRequest
from budget.redis_store import RedisBudgetStore
from budget.service import BudgetService
from core.clock import SystemClock
from core.ids import RandomIds
from core.keys import ApiKey, KeyRing, KeyRole, digest_of, new_key_text
from core.scope import Scope
from gateway.auth import Authenticator
from gateway.chat import ChatFlow
from gateway.connection import Connection, connections
from gateway.heads import KnownHead
from gateway.hot import HotRoutes
from gateway.http import Limits
from gateway.idempotency import RedisAnswerMemory
from gateway.planner import Planner
from routing.adapters.http import HttpClient
from routing.adapters.http_exchange import Connection as ProviderConnection
from routing.adapters.registry import Upstreams
from routing.health import Health
from routing.routes_file import load_routes, prices_in
from telemetry.prices import PriceBook, prices_from

_ROUTES = """
endpoints:
  upstream: {kind: openai, base_url: "http://127.0.0.1:1/v1", api_key: none}
models:
  - {name: bench, endpoint: upstream, role: primary, default_max_tokens: 64}
prices:
  - {model: bench, effective_from: 2026-01-01, source: b, usd_per_million_tokens: {input: "0.50", output: "1.50"}}
"""
_CONNECTIONS = 16
_MESSAGE = {"role": "assistant", "content": "x" * 700}
_ANSWER = orjson.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "bench",
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 30, "completion_tokens": 60, "total_tokens": 90},
    }
)
_REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_ANSWER), _ANSWER)
_HELD = b"$33\r\nheld 12 0 64 170000 100000 2000 0\r\n"
_SETTLED = b"$24\r\nheld 13 1 170 0 100170 0\r\n"


class _Wire(asyncio.Transport):
    """The other side of a connection: what is written goes to `heard`."""

    def __init__(self, heard: Callable[[Any, bytes], object]) -> None:
        super().__init__()
        self.protocol: Any = None
        self._heard = heard

    def write(self, data: Any) -> None:
        self._heard(self.protocol, data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def resume_reading(self) -> None:
        return None

    def abort(self) -> None:
        return None

    def close(self) -> None:
        return None


def _connected(protocol: Any, heard: Callable[[Any, bytes], object]) -> Any:
    wire = _Wire(heard)
    wire.protocol = protocol
    protocol.connection_made(wire)
    return protocol


class Rig:
    """A worker's hot path between a client, a store and a provider that are played."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = 0
        self._done: asyncio.Future[None] = loop.create_future()
        key_id, key = new_key_text(KeyRole.AGENT)
        body = {"model": "bench", "messages": [{"role": "user", "content": "x" * 140}], "max_tokens": 64}
        content = orjson.dumps(body)
        self._request = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Authorization: Bearer %b\r\nX-Budget-Scopes: agent:a\r\nContent-Length: %d\r\n\r\n%b"
        ) % (key.encode(), len(content), content)
        api_key = ApiKey(key_id, "bench", KeyRole.AGENT, digest_of(key), (), (Scope("agent", "*"),))
        self.hot = self._hot(KeyRing([api_key]))
        config = uvicorn.Config(_Nobody(), log_config=None, access_log=False, loop="none", interface="asgi3")
        config.load()
        state = ServerState()
        state.default_headers = [(b"date", b"Mon, 23 Nov 2026 08:00:00 GMT")]
        protocol = connections(self.hot, 60.0)
        self._clients: list[Connection] = [
            _connected(protocol(config, state, {}, loop), self._answered) for _ in range(_CONNECTIONS)
        ]

    def _hot(self, keys: KeyRing) -> HotRoutes:
        clock = SystemClock()
        routes = load_routes(_ROUTES, source="bench", environment={})
        prices = PriceBook(prices_from(prices_in(_ROUTES), source="bench"))
        client = connect("redis://127.0.0.1:1")  # nobody dials it
        store, answers = RedisBudgetStore(client), RedisAnswerMemory(client, namespace="bench", running_ms=1)
        store.join("ep_bench", 1)
        store.link.pipe._dial = self._dial_store  # type: ignore[method-assign] # it is played
        upstreams = Upstreams(routes, clock)
        self._play_provider(upstreams.for_model(routes.primary())._http)  # type: ignore[attr-defined]
        book, ids = BudgetBook([Budget("b", Scope("agent", "*"), 10**15)]), RandomIds(clock)
        budgets = BudgetService(store, book, clock, ids, _no_refresh, "bench")
        flow = ChatFlow(Planner(routes, prices, book, Health(clock)), budgets, upstreams, clock)
        callers = Authenticator(keys, clock, _no_refresh)
        return HotRoutes(flow, callers, clock, ids, Limits(), answers, lambda: None)

    async def run(self, calls: int) -> float:
        """CPU time of a call, in µs."""
        self._left, self._done = calls, self._loop.create_future()
        began_s = time.process_time()
        for client in self._clients:
            self._loop.call_soon(client.data_received, self._request)
        await self._done
        return (time.process_time() - began_s) / calls * 1e6

    def _answered(self, client: Any, data: bytes) -> None:
        if not data.startswith(b"HTTP/1.1 200 OK"):
            if not self._done.done():
                self._done.set_exception(RuntimeError(f"the rig is not as the gateway takes it: {data!r}"))
            return
        self._left -= 1
        if self._left >= _CONNECTIONS:
            self._loop.call_soon(client.data_received, self._request)
        elif not self._left:
            self._done.set_result(None)

    async def _dial_store(self, loop: asyncio.AbstractEventLoop, line: Any) -> None:
        reserving = self.hot.flow.budgets.store._hot.reserving.sha.encode()  # type: ignore[attr-defined]

        def heard(line: Any, data: bytes) -> None:
            asked = data.split(b"EVALSHA\r\n$40\r\n")[1:]
            replies = [_HELD if script.startswith(reserving) else _SETTLED for script in asked]
            loop.call_soon(line.data_received, b"".join(replies))

        _connected(line, heard)

    def _play_provider(self, http: HttpClient) -> None:
        async def connect_to_nobody(loop: asyncio.AbstractEventLoop) -> ProviderConnection:
            made: ProviderConnection = _connected(
                ProviderConnection(http, loop), lambda line, _: loop.call_soon(line.data_received, _REPLY)
            )
            http._all.add(made)
            return made

        http._connect = connect_to_nobody  # type: ignore[method-assign] # it is played


async def _no_refresh() -> None:
    return None


class _Nobody:
    """The application behind the hot routes, which nobody asks."""

    async def __call__(self, scope: object, receive: object, send: object) -> None:
        raise AssertionError("every call takes the hot path")


class _PackedAnew(Frame):
    """A frame that packs all of its words each time."""

    __slots__ = ("_words",)

    def __init__(self, words: Any) -> None:
        self._words = list(words)

    def fill(self, *words: bytes) -> bytes:
        missing = iter(words)
        every: list[Word] = [next(missing) if word is None else word for word in self._words]
        return packed(*every)


def _planned_anew(planner: Planner, chain: Any, asked: Any, now_ms: int) -> Any:
    return planner._make_shape(chain, asked, now_ms, ())


def _held_at_once(_: RedisBudgetStore, request: ReserveRequest) -> "asyncio.Future[Hold]":
    answer = asyncio.get_running_loop().create_future()
    answer.set_result(Hold(request.hold_id, 0, 64, 170_000, (Balance(100_000, 2_000, BudgetState.ACTIVE),)))
    return answer


@contextlib.contextmanager
def _instead(owner: Any, name: str, other: Any) -> Iterator[None]:
    was = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, was)


#: What is left out, by name: (whose part, its name, what is there instead).
PIECES: dict[str, tuple[Any, str, Any]] = {
    "heads known by their bytes": (KnownHead, "body", lambda *_: None),
    "plans that are kept": (Planner, "shape", _planned_anew),
    "frames of commands": (budget.hot_commands, "Frame", _PackedAnew),
    "the reserve before a call": (RedisBudgetStore, "reserve", _held_at_once),
}


async def _measure(rounds: int, calls: int) -> None:
    loop = asyncio.get_running_loop()
    best: dict[str, float] = {}
    for number in range(rounds + 1):  # the first warms up
        for name, piece in {"all of it": None, **PIECES}.items():
            with _instead(*piece) if piece else contextlib.nullcontext():
                rig = Rig(loop)
                await rig.run(_CONNECTIONS * 10)
                gc.collect()
                gc.disable()
                cost_us = await rig.run(calls)
                gc.enable()
            if number:
                best[name] = min(cost_us, best.get(name, cost_us))
    whole = best.pop("all of it")
    print(f"{'a call, with all pieces':<38} {whole:6.1f} µs")
    for name, cost_us in best.items():
        print(f"{'without ' + name:<38} {cost_us:6.1f} µs   {100 * (cost_us / whole - 1):+5.1f} %")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m bench.call_cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=3000, help="in each round")
    options = parser.parse_args()
    uvloop.run(_measure(options.rounds, options.calls))


if __name__ == "__main__":
    main()
