"""Six days of a small company in the ledger, from before the gateway under test began."""

import random
from dataclasses import replace
from pathlib import Path

from ledger.duckdb_store import DuckDbLedger
from ledger.records import batch_of
from tests.ledger.events import DAY_MS, HOUR_MS, Stream

DEAR, CHEAP = "databricks-dbrx-instruct", "databricks-mixtral-8x7b-instruct"
#: Agent, its team, and how many calls it makes on a working day.
AGENTS = (
    ("research-bot", "research", 34),
    ("code-review", "platform", 26),
    ("support-bot", "support", 21),
    ("sql-helper", "platform", 13),
    ("doc-writer", "research", 9),
    ("summarizer", "support", 6),
)


def write_past(data_dir: Path, now_ms: int) -> None:
    """Fill the ledger of a data folder with the six days before today. The same seed, the same company."""
    dice = random.Random(7)
    midnight_ms = now_ms // DAY_MS * DAY_MS
    times = []
    for day in range(6, 0, -1):
        start_ms = midnight_ms - day * DAY_MS
        quiet = 0.3 if (start_ms // DAY_MS + 3) % 7 >= 5 else 1.0  # day 0 was a Thursday
        for agent, team, calls in AGENTS:
            for _ in range(round(calls * quiet * dice.uniform(0.8, 1.2))):
                times.append((start_ms + round(dice.gauss(13.5, 2.5) * HOUR_MS), agent, team))
    stream = Stream(epoch="ep_past")
    for at_ms, agent, team in sorted(times):
        stream.now_ms = max(stream.now_ms + 1, at_ms) if stream.events else at_ms
        _call(stream, agent, team, dice)
    ledger = DuckDbLedger(data_dir / "ledger" / "main.duckdb", new_id="ldg_past")
    batch = batch_of(stream.take(), [], ledger.position(), stream.epoch, now_ms)
    ledger.append(replace(batch, stays=True))  # the gateway's own events begin at their beginning
    ledger.close()


def _call(stream: Stream, agent: str, team: str, dice: random.Random) -> None:
    call = stream.hold(agent, team, model=DEAR, amount_nano=60_000_000)
    served = CHEAP if dice.random() < 0.15 else DEAR
    tokens = {"input": dice.randint(300, 1_800), "output": dice.randint(40, 320)}
    stream.settle(call, model=served, tokens=tokens, state="Active" if served == DEAR else "Degraded", lasted_ms=600)
