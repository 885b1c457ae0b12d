"""Streams that are open and silent: what each takes of the worker's memory, and of its time while nothing comes."""

import resource
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench.growth.cost import rss_kib
from bench.growth.deployment import Deployment, Size, calls, deployed
from bench.speed.machine import Cores, cpu_us
from bench.speed.tools import Upstream, run_load
from tests.support.waiting import eventually

#: Between the two chunks of each stream: it is opened, waits so long, and ends.
_GAP_S = 60
_IDLE_S = 20.0
#: The mock upstream's queue of new connections is short: a burst of thousands would be refused.
_OPENED_PER_S = 800
_OTHER_FILES = 200
#: Two of each: to the client and to the upstream.
_FILES_PER_STREAM = 2


def idle_streams(upstream: Upstream, cores: Cores, wanted: int) -> Iterator[str]:
    """Open that many, or as many as the limit of open files allows, and watch while they are silent."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the gateway inherits it
    count = min(wanted, (hard - _OTHER_FILES) // _FILES_PER_STREAM)
    if count < wanted:
        yield f"the limit of open files ({hard:,}) allows {count:,} streams, not {wanted:,}"
    upstream.set(chunks=2, gap_us=_GAP_S * 1_000_000)
    try:
        with deployed(Size(), upstream, cores) as one:
            yield from _watch(one, upstream, count)
    finally:
        upstream.set()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _watch(one: Deployment, upstream: Upstream, count: int) -> Iterator[str]:
    empty_kib, empty_us = rss_kib(one.worker), _idle_us_per_s(one, 5.0)
    reports: list[dict[str, Any]] = []
    requests = calls(one, stream=True)
    load = threading.Thread(
        target=lambda: reports.append(
            run_load(one.address, requests, connections=count, count=count, rate=_OPENED_PER_S)
        )
    )
    before_us, store_before_us = cpu_us([one.worker]), cpu_us([one.store])
    already = upstream.answers()
    load.start()
    took_s = eventually(lambda: upstream.answers() - already >= count, "all streams are open", _GAP_S - _IDLE_S - 5)
    assert _open_holds(one) == count
    opening_us, store_us = cpu_us([one.worker]) - before_us, cpu_us([one.store]) - store_before_us
    yield (
        f"{count:,} streams opened in {took_s:.1f} s:"
        f" worker {opening_us / count:.0f} µs and store {store_us / count:.0f} µs for each"
    )
    time.sleep(1.0)
    idle_us = _idle_us_per_s(one, _IDLE_S)
    full_kib = rss_kib(one.worker)
    yield (
        f"memory: {empty_kib / 1024:.0f} MiB before, {full_kib / 1024:.0f} MiB with them:"
        f" {(full_kib - empty_kib) / count:.1f} KiB a stream"
    )
    yield (
        f"silent: worker {idle_us[0] / 10_000:.2f} % of a core ({empty_us[0] / 10_000:.2f} % without them),"
        f" store {idle_us[1] / 10_000:.2f} % ({empty_us[1] / 10_000:.2f} %)"
    )
    load.join()
    report = reports[0]
    assert report["done"] == count and not report["broken"], report
    eventually(lambda: _open_holds(one) == 0, "every hold has ended")
    yield f"all {count:,} ended whole; memory after them {rss_kib(one.worker) / 1024:.0f} MiB"


def _idle_us_per_s(one: Deployment, seconds: float) -> tuple[float, float]:
    """Processor time of worker and store while nothing is asked of them."""
    worker_us, store_us = cpu_us([one.worker]), cpu_us([one.store])
    time.sleep(seconds)
    return (cpu_us([one.worker]) - worker_us) / seconds, (cpu_us([one.store]) - store_us) / seconds


def _open_holds(one: Deployment) -> int:
    return int(one.gateway.request("GET", "/readyz", key=None).json["openHolds"])
