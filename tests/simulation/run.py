"""Runs seeds: `python -m tests.simulation.run --seed 1 --count 1000`. One seed alone tells its story."""

import argparse
import gc
import logging
import multiprocessing
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

from budget.model import ReserveRequest, Resolution
from tests.simulation.books import Broken
from tests.simulation.promises import check_promises
from tests.simulation.world import World

_CHUNK = 100
_MOST_FAILURES = 5


@dataclass(slots=True)
class Outcome:
    """What became of some seeds. failed: by seed, the story and the broken promise. seen: what they reached."""

    count: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Outcome") -> None:
        """Take in another."""
        self.count += other.count
        self.failed |= other.failed
        self.seen += other.seen


def run_seed(seed: int, *, tell: bool = False) -> tuple[Outcome, str]:
    """Play one seed; with its story if it is to be told."""
    world = World(seed)
    try:
        world.play()
        check_promises(world)
    except Exception as error:  # whatever it is, the seed must be told
        why = f"{error}" if isinstance(error, Broken) else traceback.format_exc()
        story = story_of(seed, world, f"Broken: {why}")
        return Outcome(1, {seed: story}, world.seen), story
    finally:
        world.close()
    return Outcome(1, {}, world.seen), story_of(seed, world, "every promise was kept") if tell else ""


def story_of(seed: int, world: World, end: str) -> str:
    """The story of a seed, for whoever has to find out why it ended like that."""
    lines = [f"seed {seed}", f"{world.climate}"]
    lines += [f"{at_s:8.3f} {who} " + " ".join(_short(w) for w in what) for at_s, who, *what in world.trace]
    for event in world.books.memory.log:
        facts = {k: v for k, v in event.items() if k not in ("detail", "type")}
        lines += [f"event {event['type']} {facts}"] if event["type"] != "document" else []
    return "\n  ".join([*lines, end]) + f"\n\nagain: make sim SEED={seed} N=1"


def _short(what: object) -> str:
    if isinstance(what, ReserveRequest):
        models = [f"{c.model}×{c.tokens}" for c in what.candidates]
        return f"{what.hold_id} v{what.version} {models} on {[a.id for a in what.accounts]}"
    if isinstance(what, Resolution):
        following = f" then {what.next_hold.id}" if what.next_hold else ""
        return f"{what.hold_id} {what.mode} {what.cost_nano} {what.basis}{following}"
    return str(what)


def run_chunk(seeds: Sequence[int]) -> Outcome:
    """Some seeds one after another, in this process."""
    logging.disable(logging.CRITICAL)
    gc.disable()  # worlds are small, and full of cycles: one collection for many of them
    outcome = Outcome()
    for number, seed in enumerate(seeds, start=1):
        outcome.add(run_seed(seed)[0])
        if len(outcome.failed) >= _MOST_FAILURES:
            break
        if number % 20 == 0:
            gc.collect()
    gc.collect()
    return outcome


def run_seeds(seeds: Iterable[int], progress: Callable[[Outcome], None] = lambda _: None) -> Outcome:
    """Many seeds on all cores, until the end or until a few have failed."""
    todo, outcome = list(seeds), Outcome()
    chunks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(chunks)), mp_context=context) as pool:
        for done in as_completed([pool.submit(run_chunk, chunk) for chunk in chunks]):
            outcome.add(done.result())
            progress(outcome)
            if len(outcome.failed) >= _MOST_FAILURES:
                pool.shutdown(wait=False, cancel_futures=True)
                break
    return outcome


def _tell(seed: int) -> int:
    """The story of one seed, however it ends."""
    logging.disable(logging.CRITICAL)
    outcome, story = run_seed(seed, tell=True)
    print(outcome.failed.get(seed, story))
    return 1 if outcome.failed else 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description="Play seeds of the simulation.")
    parser.add_argument("--seed", type=int, default=1, help="the first one")
    parser.add_argument("--count", type=int, default=10_000, help="how many")
    options = parser.parse_args(argv)
    began_s, bar = time.monotonic(), sys.stderr.isatty()

    def progress(outcome: Outcome) -> None:
        rate = outcome.count / max(0.001, time.monotonic() - began_s)
        line = f"{outcome.count} of {options.count} seeds, {len(outcome.failed)} failed, {rate:.0f} seeds/s"
        print(line, end="\r" if bar and outcome.count < options.count else "\n", file=sys.stderr, flush=True)

    seeds = range(options.seed, options.seed + options.count)
    if options.count == 1:
        return _tell(options.seed)
    outcome = run_seeds(seeds, progress)
    for seed in sorted(outcome.failed):
        print(outcome.failed[seed], end="\n\n")
    print(f"{outcome.count} seeds from {options.seed}, failed: {sorted(outcome.failed) or 'none'}")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
