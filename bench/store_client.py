"""What a script on the store costs the process that asks for it, by client.

    python -m bench.store_client [--rounds 5] [--calls 20000] [--waiting 64] [--loop uvloop]

A script that does nothing, with 8 keys and 30 arguments, as a reserve has them, on a real server in another process;
ours (budget/pipe.py) and redis-py in turn, round after round. Printed are the medians of this process's CPU time for
each call, in µs, and their ratio.
"""

import argparse
import asyncio
import hashlib
import statistics
import time
from collections.abc import Awaitable, Callable

import uvloop

from budget.connect import StoreClient, close, connect
from budget.pipe import Pipe
from budget.script import Script
from tests.support.stores import running_redis

_KEYS = [f"sg:{{main}}:a:{n}" for n in range(8)]
_ARGS: list[str | bytes] = [f"argument-{n}" for n in range(30)]
_FEWER_OF_REDIS_PY = 5

Ask = Callable[[], Awaitable[object]]


class _Nothing(Script):
    """A script that answers as a reserve does, and does nothing."""

    def __init__(self) -> None:
        self.text = "#!lua\nreturn {'held', 1, 2, 3, 4, 5}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


async def _cost_us(ask: Ask, calls: int, waiting: int) -> float:
    async def one_after_another() -> None:
        for _ in range(calls // waiting):
            await ask()

    began_s = time.process_time()
    await asyncio.gather(*(one_after_another() for _ in range(waiting)))
    return (time.process_time() - began_s) / (calls // waiting * waiting) * 1e6


async def _measure(url: str, rounds: int, calls: int, waiting: int) -> None:
    client: StoreClient = connect(url)
    pipe, script = Pipe(client, _KEYS[0]), _Nothing()

    def ours() -> Awaitable[object]:
        return pipe.call(script, script.command(_KEYS, _ARGS), lambda reply: reply)

    async def redis_py() -> object:
        return await script.call(client, _KEYS, _ARGS)

    costs: dict[str, list[float]] = {"pipe": [], "redis-py": []}
    try:
        await redis_py()
        for _ in range(rounds):
            costs["pipe"].append(await _cost_us(ours, calls, waiting))
            costs["redis-py"].append(await _cost_us(redis_py, calls // _FEWER_OF_REDIS_PY, waiting))
    finally:
        await close(client)
    medians = {name: statistics.median(row) for name, row in costs.items()}
    for name, median in medians.items():
        print(f"{name:<10} {median:7.1f} µs a call   {median / medians['pipe']:5.1f} × ours")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--waiting", type=int, default=64, help="calls that wait at the same time")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    options = parser.parse_args()
    with running_redis() as server:
        run = uvloop.run if options.loop == "uvloop" else asyncio.run
        run(_measure(server.url, options.rounds, options.calls, options.waiting))


if __name__ == "__main__":
    main()
