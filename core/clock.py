"""Time is passed in, so that tests count it."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol


class Clock(Protocol):
    """Wall time and a monotonic time."""

    def now_ms(self) -> int:
        """Wall clock, epoch milliseconds, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Wall clock, epoch milliseconds, UTC."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


@lru_cache(1024)  # the ends of periods are asked for by every call
def iso_utc(at_ms: int) -> str:
    """Epoch milliseconds as ISO 8601 in UTC, such as ``2026-11-23T01:00:00.000Z``."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"
