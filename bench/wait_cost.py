"""What it costs to wait for replicas or the disk before a call may leave.

    python -m bench.wait_cost [--seconds 4] [--concurrency 50]

A primary and one replica of the embedded store's program run on this machine; each row holds and settles calls for the
same time, and is given as a ratio to the first row of its run. Rows run one after the other.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from dataclasses import dataclass

from budget.connect import connect
from budget.link import NOBODY, Acks
from budget.model import Basis, Hold, Resolution, ResolveMode
from budget.redis_store import RedisBudgetStore
from budget.server_binary import find_server_binary
from tests.budget.builders import ask, fixed, terms
from tests.support.stores import RunningServer, client_of, running_server

_ROWS = (
    ("no waiting (AOF everysec)", NOBODY, "everysec"),
    ("WAIT 1: on a replica", Acks(replicas=1), "everysec"),
    ("WAITAOF 1 0: on the primary's disk", Acks(fsync=True, timeout_ms=1500), "everysec"),
    ("WAITAOF 1 1: on both disks", Acks(replicas=1, fsync=True, timeout_ms=1500), "everysec"),
    ("appendfsync always", NOBODY, "always"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement: the median time of a reserve (ms), and calls per second."""

    name: str
    reserve_ms: float
    calls_per_s: float


async def measure(url: str, name: str, acks: Acks, seconds: float, concurrency: int) -> Row:
    """Hold and settle calls for so long, `concurrency` at a time."""
    store = RedisBudgetStore(connect(url), namespace=f"bench-{time.monotonic_ns()}", acks=acks)
    await store.found("ep_bench")
    account, times = terms(limit=10**12), []
    numbers, end_s = itertools.count(), time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < end_s:
            number = next(numbers)
            verdict = await store.reserve(ask(f"h{number}", [account], fixed(1000)))
            times.append(time.perf_counter() - began)
            assert isinstance(verdict, Hold), verdict
            await store.resolve(Resolution(f"h{number}", ResolveMode.SETTLE, (account.id,), 900, Basis.EXACT))

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(concurrency)))
    took_s = time.perf_counter() - began
    await store.close()
    return Row(name, statistics.median(times) * 1000, len(times) / took_s)


def rows_of(primary: RunningServer, seconds: float, concurrency: int) -> list[Row]:
    """Every row of `_ROWS` on this primary."""
    rows = []
    for name, acks, fsync in _ROWS:
        with client_of(primary) as client:
            client.config_set("appendfsync", fsync)
        rows.append(asyncio.run(measure(primary.url, name, acks, seconds, concurrency)))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4, help="for each row")
    parser.add_argument("--concurrency", type=int, default=50)
    options = parser.parse_args()
    program = find_server_binary(None).path
    at_once = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0"}
    with running_server(program, at_once) as primary, running_server(program) as replica:
        with client_of(replica) as client:
            client.replicaof("127.0.0.1", primary.port)
        with client_of(primary) as client:
            client.set("x", "y")
            while client.wait(1, 100) < 1:
                pass
        for concurrency in (1, options.concurrency):
            rows = rows_of(primary, options.seconds, concurrency)
            print(f"\n{concurrency} at a time:")
            for row in rows:
                ratio, rate = row.reserve_ms / rows[0].reserve_ms, row.calls_per_s / rows[0].calls_per_s
                print(
                    f"  {row.name:<36} reserve {row.reserve_ms:7.2f} ms = {ratio:5.2f} x"
                    f"   {row.calls_per_s:7.0f} calls/s = {rate:4.2f} x"
                )


if __name__ == "__main__":
    main()
