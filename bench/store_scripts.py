"""What the two scripts of a call cost the store, whose core bounds what all workers together can carry.

    python -m bench.store_scripts [--rounds 5] [--calls 10000] [--scopes 1] [--waiting 16]

The embedded store as the product starts it, on a core of its own; calls are held, then settled, with the details that
the gateway writes. Printed are the medians of the store's CPU time for each script, in µs, and the calls a second that
one core can carry.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable

import uvloop

from bench.speed.machine import cpu_us, pin, share_cores
from budget.book import BudgetBook
from budget.connect import close, connect
from budget.embedded import EmbeddedValkey
from budget.model import Basis, Budget, Candidate, ReserveRequest, Resolution, ResolveMode
from budget.redis_store import RedisBudgetStore
from core.scope import Scope
from tests.support.stores import running_valkey

_TYPES = ("agent", "user", "session", "task", "team", "org")
#: As long as the gateway's are.
_HOLD_DETAIL = b'{"request_id":"req_%b"}' % (b"x" * 230)
_CALL_DETAIL = b'{"request_id":"req_%b"}' % (b"x" * 760)

Act = Callable[[int], Awaitable[object]]


async def _each(numbers: Iterable[int], act: Act, waiting: int) -> None:
    left = iter(numbers)

    async def one_after_another() -> None:
        for number in left:
            await act(number)

    await asyncio.gather(*(one_after_another() for _ in range(waiting)))


async def _cost_us(server: EmbeddedValkey, numbers: range, act: Act, waiting: int) -> float:
    before_us = cpu_us([server.pid])
    await _each(numbers, act, waiting)
    return (cpu_us([server.pid]) - before_us) / len(numbers)


async def _measure(server: EmbeddedValkey, options: argparse.Namespace) -> None:
    client = connect(server.url)
    store = RedisBudgetStore(client)
    await store.found("ep_bench")
    store.join("ep_bench", 0)
    chain = [Scope(kind, "bench") for kind in _TYPES[: options.scopes]]
    book = BudgetBook([Budget(f"b-{s.type}", s, 10**15) for s in chain])
    accounts = book.accounts(chain, time.time_ns() // 1_000_000)
    ids = tuple(a.id for a in accounts)
    candidates = (Candidate("bench", 80_000, 1_500, 64, 64, "1" * len(accounts)),)

    def reserve(number: int) -> Awaitable[object]:
        now_ms = time.time_ns() // 1_000_000
        return store.reserve(
            ReserveRequest(f"hld_{number:032x}", "worker:1", now_ms, 0, 30_000, accounts, candidates, _HOLD_DETAIL)
        )

    def settle(number: int) -> Awaitable[object]:
        return store.resolve(Resolution(f"hld_{number:032x}", ResolveMode.SETTLE, ids, 170, Basis.EXACT, _CALL_DETAIL))

    costs: dict[str, list[float]] = {"reserve": [], "settle": []}
    try:
        for turn in range(options.rounds + 1):  # the first warms up
            numbers = range(turn * options.calls, (turn + 1) * options.calls)
            for name, act in (("reserve", reserve), ("settle", settle)):
                cost_us = await _cost_us(server, numbers, act, options.waiting)
                costs[name] += [cost_us] if turn else []
    finally:
        await close(client)
    medians = {name: statistics.median(row) for name, row in costs.items()}
    for name, median in medians.items():
        print(f"{name:<8} {median:6.1f} µs")
    both_us = sum(medians.values())
    print(f"{'a call':<8} {both_us:6.1f} µs   one core: {1e6 / both_us:,.0f} calls/s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m bench.store_scripts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10_000, help="in each round")
    parser.add_argument("--scopes", type=int, default=1, choices=range(1, 7), help="with a budget each")
    parser.add_argument("--waiting", type=int, default=16, help="calls that wait at the same time")
    options = parser.parse_args()
    cores = share_cores()
    os.sched_setaffinity(0, cores.load)
    with running_valkey() as server:
        pin([server.pid], cores.gateway)
        uvloop.run(_measure(server, options))


if __name__ == "__main__":
    main()
