"""What does a gateway add to a call? Spendgate and its peers in front of one mock upstream, in turns, in one run.

    python -m bench.speed                                         # everything; writes docs/speed-table.md
    python -m bench.speed --quick --only spendgate,nginx          # a minute, to the terminal
    python -m bench.speed --install                               # the peers, each in an environment of its own

1. The mock upstream and all contestants are started; those that are missing are named.
2. The contestant's one worker is pinned to a core of its own; everything else runs on the others.
3. Round by round, and in a round measurement by measurement (`measure.py`), the contestants take turns. A figure is
   the median of its rounds, a ratio the median of the ratios within a round: a slow minute of the machine hits all.

The lead figure is the processor time that a call costs the serving process (user and kernel mode, all threads): it
changes least when the machine is busy. Needs gcc and two cores. BENCH_SPENDGATE_ENV="NAME=VALUE ..." adds settings to
Spendgate.
"""

import argparse
import json
import os
import platform
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from bench.speed.contestant import Contestant, Serving
from bench.speed.contestants import ABSENT, CONTESTANTS, SLOW, YARDSTICK
from bench.speed.machine import Cores, pin, share_cores
from bench.speed.measure import FULL, QUICK, STEPS, Plan, Round, measure, measure_direct, warm_up
from bench.speed.table import Entry, report
from bench.speed.tools import FOLDER, Upstream, running_upstream

_DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "speed-table.md"
_FILES = 65536
_ROUNDS = 5
_QUICK_ROUNDS = 1


def main() -> int:
    """Measure, print and store."""
    options = _options()
    if options.install:
        return _install(options.only)
    cores = share_cores()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that those who were started are stopped
    os.sched_setaffinity(0, cores.load)
    _raise_limit()
    plan = QUICK if options.quick else FULL
    rounds = options.rounds or (_QUICK_ROUNDS if options.quick else _ROUNDS)
    conditions = _conditions(cores, plan, rounds)
    missing = {CONTESTANTS[key].name: why for key in options.only if (why := CONTESTANTS[key].missing())}
    entries = _entries([key for key in options.only if not CONTESTANTS[key].missing()])
    _run(entries, cores, plan, rounds, missing)
    yardstick = next((entry for entry in entries if entry.key == YARDSTICK), None)
    text = report(entries, yardstick, missing | (ABSENT if options.whole else {}))
    print("\n".join(f"{name}: {value}" for name, value in conditions.items()), end="\n\n")
    print(text)
    _store(entries, conditions, text, publish=options.whole)
    return 0


def _raise_limit() -> None:
    """A crowd of 1,000 needs 2,000 sockets of a gateway; what is started inherits this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _run(entries: list[Entry], cores: Cores, plan: Plan, rounds: int, missing: dict[str, str]) -> None:
    """Start everybody, then take turns; who does not start is left out."""
    with ExitStack() as stack:
        upstream = stack.enter_context(running_upstream(cores.upstream))
        serving: dict[str, Serving] = {}
        for entry in list(entries):
            try:
                serving[entry.key] = _start(stack, CONTESTANTS[entry.key], upstream, cores)
            except (RuntimeError, AssertionError) as error:
                missing[entry.name] = f"did not start: {str(error)[-200:]}"
                entries.remove(entry)
        for one in serving.values():
            warm_up(one, plan.seconds)
        for number in range(1, rounds + 1):
            _round(entries, serving, upstream, plan, number)


def _start(stack: ExitStack, contestant: Contestant, upstream: Upstream, cores: Cores) -> Serving:
    print(f"starting {contestant.name}", file=sys.stderr)
    serving = stack.enter_context(contestant.run(upstream))
    pin(serving.pids, cores.gateway | cores.load if serving.spread else cores.gateway)
    pin(serving.helpers, cores.upstream)
    return serving


def _round(entries: list[Entry], serving: dict[str, Serving], upstream: Upstream, plan: Plan, number: int) -> None:
    direct = measure_direct(upstream, plan)
    results = {entry.key: Round() for entry in entries}
    for step in STEPS:
        for entry in entries:
            measure(step, serving[entry.key], upstream, plan, results[entry.key])
    for entry in entries:
        one = results[entry.key]
        entry.rounds.append(one)
        entry.direct.append(direct)
        cpu, rate = one.figures.get("cpu_us", 0), one.figures.get("rate", 0)
        problems = "".join(f"; {name}: {reason}" for name, reason in one.problems.items())
        print(f"round {number}, {entry.name}: {cpu:.1f} µs a call, {rate:.0f} calls/s{problems}", file=sys.stderr)


def _entries(keys: Sequence[str]) -> list[Entry]:
    return [Entry(key, (c := CONTESTANTS[key]).name, c.version(), c.budgets) for key in keys]


def _install(keys: Sequence[str]) -> int:
    """Make the environments that are not there; 1 if one of them could not be made."""
    failures = 0
    for key in keys:
        contestant = CONTESTANTS[key]
        if contestant.missing():
            try:
                contestant.install()
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"{contestant.name}: {error}", file=sys.stderr)
        why = contestant.missing()
        print(f"{contestant.name}: {why or contestant.version()}")
        failures += why is not None
    return 1 if failures else 0


def _store(entries: Sequence[Entry], conditions: dict[str, str], text: str, *, publish: bool) -> None:
    folder = FOLDER / "results"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"speed-{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}"
    whole = {"conditions": conditions, "contestants": [asdict(entry) for entry in entries]}
    (folder / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    facts = "\n".join(f"- {key}: {value}" for key, value in conditions.items())
    page = f"# What a gateway adds to a call\n\nThis page is made by `make bench`.\n\n{facts}\n\n{text}\n"
    (folder / f"{name}.md").write_text(page)
    if publish:
        _DOCUMENT.write_text(page)
    print(f"\nstored in {folder / name}.json and .md" + (f", and {_DOCUMENT}" if publish else ""), file=sys.stderr)


def _conditions(cores: Cores, plan: Plan, rounds: int) -> dict[str, str]:
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "load average before the start": f"{os.getloadavg()[0]:.2f}; a quiet machine has less than 0.2",
        "who runs where": str(cores),
        "rounds": f"{rounds}, of {plan.seconds:g} s for the throughput; medians",
        "a call": "a prompt of 140 bytes, max_tokens 64; an answer of 1 KB",
    }


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.speed", description=__doc__, formatter_class=raw)
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(CONTESTANTS)}")
    parser.add_argument("--rounds", type=int, help=f"{_ROUNDS}, or {_QUICK_ROUNDS} with --quick")
    parser.add_argument("--quick", action="store_true", help=f"short measurements, without {', '.join(SLOW)}")
    parser.add_argument("--install", action="store_true", help="install the peers that are missing, and end")
    options = parser.parse_args()
    options.whole = options.only is None and not options.quick
    everybody = [name for name in CONTESTANTS if not options.quick or name not in SLOW]
    options.only = options.only.split(",") if options.only else everybody
    if unknown := set(options.only) - set(CONTESTANTS):
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
