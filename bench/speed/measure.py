"""The measurements, each for one contestant in one round.

Each is a run of `load.c` with the mock upstream set for it. A figure that can't be had (calls were refused, or
connections broken) is left out, and the reason is kept.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench.speed.contestant import Serving
from bench.speed.machine import cpu_us, memory_mib
from bench.speed.tools import Upstream, run_load

_CONCURRENCY = 32
_CROWD = 1000
_CROWD_DELAY_US = 50_000
_CHUNKS = 64
_STREAMS_FAST = 8
_STREAMS_PACED = 16
_PACED_GAP_US = 10_000
_OPEN_CONNECTIONS = 256
_SETTLE_S = 0.1
_WARM_UP_S = 0.2

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """How long. seconds: of the throughput; those of the other measurements that have a time take a part of it."""

    seconds: float
    paced_streams: int

    def part(self, share: float) -> float:
        """A share of the seconds."""
        return round(self.seconds * share, 2)


FULL = Plan(seconds=3.0, paced_streams=4 * _STREAMS_PACED)
QUICK = Plan(seconds=0.8, paced_streams=2 * _STREAMS_PACED)


class MeasureError(Exception):
    """The answers were not those of a working gateway."""


@dataclass(slots=True)
class Round:
    """What came out. problems: why figures are missing, by measurement."""

    figures: Figures = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """Keep what goes wrong in this measurement."""
        try:
            yield
        except (MeasureError, OSError) as error:
            self.problems[name] = str(error)


def warm_up(serving: Serving, seconds: float) -> None:
    """Fill caches and pools, let compilers see what is hot."""
    run_load(serving.address, serving.requests(), connections=_CONCURRENCY, seconds=seconds)
    run_load(serving.address, serving.requests(stream=True), connections=_STREAMS_FAST, seconds=seconds / 4)


def measure_direct(upstream: Upstream, plan: Plan) -> Figures:
    """The same calls without a gateway, one at a time: what is subtracted."""
    serving = Serving(upstream.address, [])
    upstream.set()
    one = _run(serving, connections=1, seconds=plan.part(0.25))
    upstream.set(chunks=8, gap_us=1000)
    stream = _run(serving, connections=1, seconds=plan.part(0.25), stream=True)
    return {"one_p50_us": one["latency_us"]["p50"], "first_byte_us": stream["first_byte_us"]["p50"]}


def measure(step: str, serving: Serving, upstream: Upstream, plan: Plan, result: Round) -> None:
    """One of `STEPS`; for a contestant of several workers only what a call costs."""
    if not serving.spread or step == "throughput":
        with result.measuring(step):
            STEPS[step](serving, upstream, plan, result.figures)


def _throughput(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    upstream.set()
    report = _run(serving, connections=_CONCURRENCY, seconds=plan.seconds)
    figures |= {"cpu_us": report["cpu_us"], "store_cpu_us": report["store_cpu_us"], "rate": report["rate"]}
    figures |= {"busy_p50_us": report["latency_us"]["p50"], "busy_p99_us": report["latency_us"]["p99"]}


def _one_at_a_time(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    upstream.set()
    report = _run(serving, connections=1, seconds=plan.part(0.5))
    figures |= {"one_p50_us": report["latency_us"]["p50"], "one_p99_us": report["latency_us"]["p99"]}


def _half_load(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    if "rate" not in figures:
        raise MeasureError("its highest rate is not known")
    upstream.set()
    rate = figures["rate"] / 2
    report = _run(serving, connections=_OPEN_CONNECTIONS, seconds=plan.part(0.75), rate=rate)
    figures |= {"half_p50_us": report["latency_us"]["p50"], "half_p99_us": report["latency_us"]["p99"]}


def _crowd(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    upstream.set(delay_us=_CROWD_DELAY_US)
    report = _run(serving, connections=_CROWD, count=_CROWD)
    figures |= {"crowd_p50_us": report["latency_us"]["p50"], "crowd_p99_us": report["latency_us"]["p99"]}


def _streams(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    upstream.set(chunks=8, gap_us=1000)
    report = _run(serving, connections=1, seconds=plan.part(0.5), stream=True)
    figures["first_byte_us"] = report["first_byte_us"]["p50"]
    upstream.set(chunks=_CHUNKS)
    report = _run(serving, connections=_STREAMS_FAST, seconds=plan.part(0.5), stream=True)
    figures["chunk_fast_us"] = report["cpu_us"] / _CHUNKS
    upstream.set(chunks=_CHUNKS, gap_us=_PACED_GAP_US)
    report = _run(serving, connections=_STREAMS_PACED, count=plan.paced_streams, stream=True)
    figures["chunk_paced_us"] = report["cpu_us"] / _CHUNKS


def _callers(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    upstream.set()
    for callers in serving.callers:
        report = _run(serving, connections=_CONCURRENCY, seconds=plan.part(0.5), callers=callers)
        figures |= {f"{name} {callers}": report[name] for name in ("cpu_us", "store_cpu_us", "rate")}


def _memory(serving: Serving, upstream: Upstream, plan: Plan, figures: Figures) -> None:
    figures |= {"memory_mib": memory_mib(serving.pids), "store_memory_mib": memory_mib(serving.helpers)}


#: In a round all contestants take a step before the next one begins, so that a ratio is between neighbours in time.
STEPS: dict[str, Callable[[Serving, Upstream, Plan, Figures], None]] = {
    "throughput": _throughput,
    "one at a time": _one_at_a_time,
    "half load": _half_load,
    "crowd": _crowd,
    "streams": _streams,
    "callers": _callers,
    "memory": _memory,
}


def _run(
    serving: Serving,
    *,
    connections: int,
    seconds: float | None = None,
    count: int | None = None,
    rate: float | None = None,
    stream: bool = False,
    callers: str | None = None,
) -> dict[str, Any]:
    """The load's report, with the processor time of a call: of the serving processes, and of their store.

    Raises:
        MeasureError: not every call was answered well.
        OSError: a process is gone.
    """
    requests = serving.requests(stream=stream, callers=callers)
    before_us, store_before_us = cpu_us(serving.pids), cpu_us(serving.helpers)
    warm_up_s = 0 if seconds is None or stream else _WARM_UP_S  # a stream may take longer than that
    report = run_load(
        serving.address, requests, connections=connections, seconds=seconds, count=count, rate=rate, warm_up_s=warm_up_s
    )
    time.sleep(_SETTLE_S)  # what a gateway still does for a call after its answer belongs to it
    wrong = {name: report[name] for name in ("refused", "broken", "unfinished") if report[name]}
    if wrong or not report["done"]:
        raise MeasureError(f"{wrong or 'no call was answered'}; statuses {report['statuses']}")
    if stream and report["stream_events"] < report["done"] * 2:
        raise MeasureError(f"{report['done']} streams had only {report['stream_events']} events")
    report["cpu_us"] = (cpu_us(serving.pids) - before_us) / report["total"]
    report["store_cpu_us"] = (cpu_us(serving.helpers) - store_before_us) / report["total"]
    return report
