"""The worker's memory over rounds of calls: it may grow in the first, never after."""

from collections.abc import Iterator, Sequence

from bench.growth.cost import rss_kib
from bench.growth.deployment import Size, calls, deployed
from bench.speed.machine import Cores
from bench.speed.tools import Upstream, run_load

_AGENTS = 1_000
_STREAM_EVERY = 10


def soak(upstream: Upstream, cores: Cores, rounds: int, count: int) -> Iterator[str]:
    """Rounds of calls by a thousand agents, every tenth call a stream; memory after each, and how fast it grows."""
    upstream.set(chunks=16)
    with deployed(Size(), upstream, cores) as one:
        requests = calls(one, _AGENTS)
        requests[::_STREAM_EVERY] = calls(one, _AGENTS, stream=True)[::_STREAM_EVERY]
        after_kib = []
        for number in range(rounds):
            result = run_load(one.address, requests, connections=32, count=count)
            assert not result["refused"] and not result["broken"], result
            after_kib.append(rss_kib(one.worker))
            yield f"after {(number + 1) * count:>8,} calls: worker {after_kib[-1] / 1024:6.1f} MiB"
        grown = slope(after_kib[1:]) * 1024 / count
        yield f"slope from round 2 on: {grown:+.2f} bytes a call"
    upstream.set()


def slope(values: Sequence[float]) -> float:
    """Growth per round, by least squares."""
    middle, mean = (len(values) - 1) / 2, sum(values) / len(values)
    spread = sum((n - middle) ** 2 for n in range(len(values)))
    return sum((n - middle) * (value - mean) for n, value in enumerate(values)) / spread if spread else 0.0
