"""Waiting for what another process does: by looking, with a limit."""

import time
from collections.abc import Callable


def eventually(true: Callable[[], bool], what: str, timeout_s: float = 20) -> float:
    """Return once it is true: how long it took, in seconds.

    Raises:
        AssertionError: it did not become true in time; says `what`.
    """
    began_s = time.monotonic()
    while not true():
        assert time.monotonic() - began_s < timeout_s, what
        time.sleep(0.02)
    return time.monotonic() - began_s
