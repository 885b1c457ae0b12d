"""Does a call cost the same when a deployment has grown? And streams that wait, the start, and memory over time.

    python -m bench.growth                              # everything, to the terminal
    python -m bench.growth --quick --only calls,start
    python -m bench.growth --only calls --axis budgets

Needs gcc, and two cores: the worker that is measured has one to itself. Its cost is processor time (user and kernel
mode), which changes least when the machine is busy; ratios are to the smallest case of the same run.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator

from bench.growth.cost import HEAD, axes, measure, table
from bench.growth.soak import soak
from bench.growth.start import starts
from bench.growth.streams import idle_streams
from bench.speed.machine import Cores, share_cores
from bench.speed.tools import Upstream, running_upstream

Part = Callable[[Upstream, Cores, argparse.Namespace], Iterator[str]]


def calls(upstream: Upstream, cores: Cores, options: argparse.Namespace) -> Iterator[str]:
    """What a call costs."""
    yield from HEAD
    for axis in axes(options.quick):
        if options.axis in axis.name:
            results = measure(axis, upstream, cores, options.rounds, 4_000 if options.quick else 12_000)
            yield from table(axis, results)


_PARTS: dict[str, Part] = {
    "calls": calls,
    "streams": lambda upstream, cores, options: idle_streams(upstream, cores, 500 if options.quick else 10_000),
    "start": lambda upstream, cores, options: starts(upstream, 2 if options.quick else 5, options.quick),
    "soak": lambda upstream, cores, options: soak(upstream, cores, 5, 4_000 if options.quick else 20_000),
}


def main() -> int:
    """Measure and print."""
    options = _options()
    names = options.only.split(",") if options.only else list(_PARTS)
    cores = share_cores()
    with running_upstream(cores.upstream) as upstream:
        for name in names:
            os.sched_setaffinity(0, range(os.cpu_count() or 1) if name == "start" else cores.load)
            print(f"\n{name}:\n", flush=True)
            for line in _PARTS[name](upstream, cores, options):
                print(line, flush=True)
    return 0


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.growth", description=__doc__, formatter_class=raw)
    parser.add_argument("--only", help=f"some of {','.join(_PARTS)}")
    parser.add_argument("--axis", default="", help="of calls: those whose name has this in it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
