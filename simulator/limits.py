"""Rate limits of pay-per-token endpoints: requests and tokens a minute, max_tokens reserved before admission.

A window of 60 s starts with its first call. What a call reserved and did not use is given back when it ends
(only within its window), so a tight max_tokens lets more calls in at once.
"""

import math

from core.clock import Clock
from simulator.errors import workspace_limit
from simulator.settings import ModelSettings

_WINDOW_S = 60.0


class RateLimit:
    """The two limits of one endpoint."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_s = -math.inf
        self._requests = 0
        self._tokens = 0

    def admit(self, name: str, model: ModelSettings, tokens: int) -> float:
        """Count a call that needs up to `tokens`; returns its window, for `give_back`.

        Raises:
            CallError: 429 with the seconds until the window ends; nothing is counted then.
        """
        if model.requests_per_minute is None and model.tokens_per_minute is None:
            return self._started_s
        now_s = self._clock.monotonic_s()
        if now_s >= self._started_s + _WINDOW_S:
            self._started_s, self._requests, self._tokens = now_s, 0, 0
        wait_s = max(1, math.ceil(self._started_s + _WINDOW_S - now_s))
        if model.requests_per_minute is not None and self._requests >= model.requests_per_minute:
            raise workspace_limit(name, "QPS", wait_s)
        if model.tokens_per_minute is not None and self._tokens + tokens > model.tokens_per_minute:
            raise workspace_limit(name, "tokens per minute", wait_s)
        self._requests += 1
        self._tokens += tokens
        return self._started_s

    def give_back(self, window: float, tokens: int) -> None:
        """Return what a call reserved and did not use; nothing if its window is over."""
        if window == self._started_s:
            self._tokens -= tokens
