"""What does a gateway add to a call? Spendgate and its peers in front of one mock upstream, in turns, in one run.

    python -m bench.speed                              # everything, to the terminal
    python -m bench.speed --quick --only spendgate,nginx --rounds 3

Needs gcc, and two cores: the contestant's worker has one to itself. The lead figure is the processor time that a call
costs the serving process (user and kernel mode, all threads): it changes least when the machine is busy.
BENCH_SPENDGATE_ENV="NAME=VALUE ..." adds settings to Spendgate.
"""

import argparse
import os
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

from bench.speed.contestant import Contestant, Serving
from bench.speed.machine import cpu_us, pin, share_cores
from bench.speed.nginx import Nginx
from bench.speed.spendgate import Spendgate
from bench.speed.tools import run_load, running_upstream

_CONTESTANTS: dict[str, Contestant] = {"nginx": Nginx(), "spendgate": Spendgate()}


def main() -> int:
    """Measure and print."""
    options = _options()
    names = options.only.split(",") if options.only else list(_CONTESTANTS)
    cores = share_cores()
    os.sched_setaffinity(0, cores.load)
    seconds = 1.5 if options.quick else 4.0
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with ExitStack() as stack:
        upstream = stack.enter_context(running_upstream(cores.upstream))
        serving = {name: stack.enter_context(_CONTESTANTS[name].run(upstream)) for name in names}
        for one in serving.values():
            pin(one.pids, cores.gateway)
            pin(one.helpers, cores.upstream)
            run_load(one.address, _requests(one), connections=32, seconds=2)
        for number in range(options.rounds or 5):
            for name, one in serving.items():
                rounds[name].append(result := _closed(one, seconds))
                print(
                    f"round {number + 1}  {name:<12} {result['rate']:9.0f} calls/s"
                    f"  {result['cpu_us']:7.1f} µs/call  store {result['store_us']:6.1f} µs/call"
                    f"  p50 {result['latency_us']['p50']:8.0f} µs  p99 {result['latency_us']['p99']:8.0f} µs",
                    file=sys.stderr,
                )
    for name, results in rounds.items():
        cpu, rate = (statistics.median(result[key] for result in results) for key in ("cpu_us", "rate"))
        print(f"{name:<12} {cpu:7.1f} µs of processor time a call, {rate:7.0f} calls/s (medians of {len(results)})")
    return 0


def _requests(one: Serving) -> list[bytes]:
    return one.requests(callers="one" if "one" in one.callers else None)


def _closed(one: Serving, seconds: float) -> dict[str, Any]:
    before_us, store_before_us = cpu_us(one.pids), cpu_us(one.helpers)
    result = run_load(one.address, _requests(one), connections=32, seconds=seconds)
    time.sleep(0.1)
    assert not result["refused"] and not result["broken"], result
    result["cpu_us"] = (cpu_us(one.pids) - before_us) / result["total"]
    result["store_us"] = (cpu_us(one.helpers) - store_before_us) / result["total"]
    return result


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.speed", description=__doc__, formatter_class=raw)
    parser.add_argument("--only", help=f"some of {','.join(_CONTESTANTS)}")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
