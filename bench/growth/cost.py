"""What a call costs the worker and the store, for one deployment beside a larger one, in turns."""

import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.growth.deployment import Deployment, Size, calls, deployed
from bench.speed.machine import Cores, cpu_us
from bench.speed.tools import Upstream, run_load

_CONNECTIONS = 32
_WARM_UP_CALLS = 4_000


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table. agents: that call, in turn. chain: scopes of each call."""

    name: str
    size: Size = field(default_factory=Size)
    agents: int = 1
    chain: int = 1


@dataclass(frozen=True, slots=True)
class Axis:
    """What grows, from the smallest case on. unit: of what memory is told by; size of the last case over the first."""

    name: str
    cases: tuple[Case, ...]
    unit: str = ""
    more: int = 0


@dataclass(slots=True)
class Measured:
    """A case's rounds, and the worker's memory when it had just been filled and after the last round."""

    case: Case
    filled_kib: int
    cpu_us: list[float] = field(default_factory=list)
    store_us: list[float] = field(default_factory=list)
    after_kib: int = 0


def axes(quick: bool) -> list[Axis]:
    """All that is varied; each alone."""
    most, many, keys, holds = (10_000, 1_000, 1_000, 1_000) if quick else (100_000, 10_000, 10_000, 10_000)
    crowds = (1, 100, many, most)
    return [
        Axis("budgets", tuple(Case(f"{n:,}", Size(agents=n)) for n in (1, 100, most)), "budget", most - 1),
        Axis("agents under agent:*", tuple(Case(f"{n:,}", agents=n) for n in crowds)),
        Axis("agents, each with a budget", tuple(Case(f"{n:,}", Size(agents=n), agents=n) for n in crowds)),
        Axis("scopes of a call", tuple(Case(f"{n}", chain=n) for n in (1, 3, 6))),
        Axis("API keys", tuple(Case(f"{n:,}", Size(keys=n)) for n in (1, 100, keys)), "key", keys - 1),
        Axis("open holds", tuple(Case(f"{n:,}", Size(holds=n)) for n in (0, holds))),
    ]


def measure(axis: Axis, upstream: Upstream, cores: Cores, rounds: int, count: int) -> list[Measured]:
    """So many calls for each case in each round. All deployments run at once, and wait while another is measured."""
    with ExitStack() as stack:
        running = [stack.enter_context(deployed(case.size, upstream, cores)) for case in axis.cases]
        results = [Measured(case, rss_kib(one.worker)) for case, one in zip(axis.cases, running, strict=True)]
        for case, one in zip(axis.cases, running, strict=True):
            _load(one, case, 0, max(_WARM_UP_CALLS, case.agents, case.size.keys))
        for number in range(rounds):
            for result, one in zip(results, running, strict=True):
                _round(result, one, number, count)
                print(
                    f"{axis.name} {result.case.name:>8}: worker {result.cpu_us[-1]:7.1f} µs/call"
                    f"  store {result.store_us[-1]:6.1f} µs/call",
                    file=sys.stderr,
                )
        for result, one in zip(results, running, strict=True):
            result.after_kib = rss_kib(one.worker)
    return results


def _round(result: Measured, one: Deployment, number: int, count: int) -> None:
    before_us, store_before_us = cpu_us([one.worker]), cpu_us([one.store])
    _load(one, result.case, number * count, count)
    time.sleep(0.1)  # the last settlements
    result.cpu_us.append((cpu_us([one.worker]) - before_us) / count)
    result.store_us.append((cpu_us([one.store]) - store_before_us) / count)


def _load(one: Deployment, case: Case, first: int, count: int) -> None:
    distinct = min(count, max(case.agents, case.size.keys))
    requests = calls(one, case.agents, case.chain, first=first, count=distinct)
    result = run_load(one.address, requests, connections=_CONNECTIONS, count=count)
    assert not result["refused"] and not result["broken"], result


def table(axis: Axis, results: Sequence[Measured]) -> list[str]:
    """The rows of this axis, medians, with ratios to the smallest case."""
    rows = []
    first = results[0]
    for result in results:
        cpu, store = statistics.median(result.cpu_us), statistics.median(result.store_us)
        rows.append(
            f"| {axis.name} | {result.case.name} | {cpu:.0f} | {cpu / statistics.median(first.cpu_us):.2f}"
            f" | {store:.0f} | {store / statistics.median(first.store_us):.2f}"
            f" | {result.filled_kib / 1024:.0f} | {result.after_kib / 1024:.0f} | {_each(axis, first, result)} |"
        )
    return rows


def _each(axis: Axis, first: Measured, result: Measured) -> str:
    """Memory for each of what there is more than in the first case; only told of the largest."""
    if not axis.more or result.case is not axis.cases[-1]:
        return ""
    return f"{(result.after_kib - first.after_kib) * 1024 / axis.more:,.0f} bytes a {axis.unit}"


HEAD = (
    "| what grows | to | worker µs/call | ratio | store µs/call | ratio | MiB filled | MiB after | memory |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
)


def rss_kib(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
