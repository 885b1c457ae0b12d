"""Processes as the kernel sees them: on which core, with how much processor time and memory."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_KIB = 1024


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. gateway: the contestant's serving processes; load: everything else that takes part."""

    gateway: frozenset[int]
    load: frozenset[int]
    upstream: frozenset[int]

    def __str__(self) -> str:
        parts = {"gateway": self.gateway, "load": self.load, "upstream and store": self.upstream}
        return "; ".join(f"{name} on {_words(cores)}" for name, cores in parts.items())


def share_cores() -> Cores:
    """One core for the contestant alone; the rest share what is left, apart where there are three or more.

    Raises:
        RuntimeError: there is only one core, so that nothing can be kept apart.
    """
    all_of = sorted(os.sched_getaffinity(0))
    if len(all_of) < 2:
        raise RuntimeError("the benchmark needs two cores: one for the gateway, one for the load")
    load, gateway, *rest = all_of
    return Cores(frozenset({gateway}), frozenset({load}), frozenset(rest or {load}))


def pin(pids: Iterable[int], cores: frozenset[int]) -> None:
    """Every thread of these processes; what they start later inherits it."""
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), cores)


def children(pid: int) -> list[int]:
    """Processes that this one started and that still run, whichever of its threads did it."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(word) for file in lists for word in file.read_text().split())


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def cpu_us(pids: Iterable[int]) -> float:
    """Processor time that all threads of these processes took so far, in user and kernel mode."""
    return sum(time.clock_gettime_ns((~pid << 3) | 2) for pid in pids) / 1000  # CPUCLOCK_SCHED of the process


def memory_mib(pids: Iterable[int]) -> float:
    """Resident memory; a page that several processes share is divided between them (Pss)."""
    total_kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, *values = line.split()
            total_kib += int(values[0]) if name == "Pss:" else 0
    return total_kib / _KIB


def _words(cores: frozenset[int]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, sorted(cores)))}"
