"""The upstream: the simulator that ships, steered by a variant, and its own bill at fixed prices."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.overspend.variants import Variant
from core.money import charge_nano
from simulator.tokens import count_messages
from tests.support.simulated import Simulated, running_simulator

PRICED_MODEL = "bench-priced"
UNPRICED_MODEL = "bench-unpriced"

#: US dollars per million tokens. The upstream bills both models so; only the first has a price in the gateways.
INPUT_USD = "0.75"
OUTPUT_USD = "2.25"

_INPUT_PICO = 750_000
_OUTPUT_PICO = 2_250_000
_TOKENS_PER_CHUNK = 40
_LOOK_EVERY_S = 0.02
_MOST_CALLS = 10_000

#: Four tokens of text, and four for the marks that the simulator puts around a message.
MESSAGES = [{"role": "user", "content": "Please write on."}]


@dataclass(frozen=True, slots=True)
class BilledCall:
    """One call that the upstream knows of. id: as the gateway told it; None if it did not."""

    id: str | None
    nano: int
    answered: bool


class Upstream:
    """A running simulator and what it bills."""

    def __init__(self, simulated: Simulated) -> None:
        self._simulated = simulated
        self.base_url = simulated.base_url

    def prepare(self, variant: Variant) -> None:
        """Behave as the variant says, with an empty bill."""
        settings = {
            "latency_ms": variant.latency_ms,
            "output_tokens": variant.answer_tokens,
            "ignores_max_tokens": not variant.obeys_max_tokens,
            "tokens_per_chunk": _TOKENS_PER_CHUNK,
            "chunk_delay_ms": variant.chunk_delay_ms,
        }
        self._simulated.clear_faults()
        for model in (PRICED_MODEL, UNPRICED_MODEL):
            self._simulated.change_model(model, **settings)
        if not variant.with_usage:
            self._simulated.set_fault(PRICED_MODEL, fault="no_usage")
        self._simulated.reset()

    def in_flight(self) -> int:
        """Calls that it is answering."""
        return self._simulated.in_flight()

    def wait_idle(self) -> None:
        """Return when the bill is final."""
        self._simulated.wait_idle(timeout_s=60)

    def calls(self) -> list[BilledCall]:
        """Every call that was not refused."""
        records = self._simulated.bill(recent=_MOST_CALLS).get("client_request_ids", [])
        return [
            BilledCall(record["client_request_id"], _nano(record), record["prompt_tokens"] > 0)
            for record in records
            if record["status"] in (0, 200)
        ]

    async def watch_largest(self, in_flight_nano: int, seen: list[int]) -> None:
        """Keep looking at what is billed and what is being answered, the latter at its full cost, until cancelled."""
        while True:
            calls = await asyncio.to_thread(self.calls)
            seen.append(sum(call.nano if call.answered else in_flight_nano for call in calls))
            await asyncio.sleep(_LOOK_EVERY_S)


@contextmanager
def running_upstream() -> Iterator[Upstream]:
    """A simulator with the two models."""
    with running_simulator(models={PRICED_MODEL: {}, UNPRICED_MODEL: {}}) as simulated:
        yield Upstream(simulated)


def call_nano(output_tokens: int) -> int:
    """What the upstream bills for one call of ours with this much output."""
    return charge_nano(count_messages(MESSAGES, 0) * _INPUT_PICO + output_tokens * _OUTPUT_PICO)


def _nano(record: dict[str, Any]) -> int:
    return charge_nano(record["prompt_tokens"] * _INPUT_PICO + record["completion_tokens"] * _OUTPUT_PICO)
