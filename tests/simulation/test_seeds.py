"""Ten thousand seeds, each a story of its own; see `world.py`. Again, and more of them: ``make sim``."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.run import run_seeds

ROOT = Path(__file__).resolve().parents[2]
COUNT = 10_000
#: Seeds beyond those that once broke a promise, with what was wrong.
KEPT_SEEDS: dict[int, str] = {}
#: What all the seeds together must have come across, or they would prove little.
REACHED = frozenset(
    {
        *(f"message {fault}" for fault in ("request_lost", "reply_lost", "late", "refused", "twice", "slow")),
        *(f"event {kind}" for kind in ("settle", "void", "expire", "true_up", "post", "state")),
        *(f"{kind} after expiry" for kind in ("settle", "void", "true_up")),
        *(f"usage {said}" for said in ("none", "zero", "negative", "text", "absurd", "contradiction", "float")),
        *(f"status {status}" for status in (200, 402, 409, 422, 429, 502, 503, 504)),
        *("crash", "restart", "outage", "drain", "cancel", "client left", "clock jump", "change"),
        *("journal taken over", "asked again", "replayed answer", "more than max_tokens", "overage", "garbage"),
        *("failed free", "failed, perhaps charged"),
    }
)


@pytest.mark.timeout(600)
def test_no_seed_breaks_a_promise() -> None:
    outcome = run_seeds([*KEPT_SEEDS, *range(COUNT)])
    assert not outcome.failed, "\n\n".join(outcome.failed[seed] for seed in sorted(outcome.failed))
    assert outcome.count == COUNT + len(KEPT_SEEDS)
    assert not {name for name in REACHED if not outcome.seen[name]}


_TELL = """
from tests.simulation.run import run_seed
for seed in range(40, 52):
    print(run_seed(seed, tell=True)[1])
"""


def _stories(hash_seed: str) -> bytes:
    environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", _TELL], cwd=ROOT, env=environment, capture_output=True, check=True)
    return done.stdout


def test_a_seed_tells_the_same_story_every_time() -> None:
    first = _stories("1")
    assert first.count(b"every promise was kept") == 12
    assert _stories("2") == first
