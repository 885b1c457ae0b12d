"""The circuit of each model's endpoint, in this worker: closed -> open -> half-open. No I/O.

A model that fails again and again is left out for a while, so that callers do not wait for it; then one call at a
time tries it.
"""

from dataclasses import dataclass
from typing import Any

from core.clock import Clock, iso_utc
from routing.errors import FailureKind, UpstreamError

_COUNTED = frozenset(
    {
        FailureKind.NOT_SENT,
        FailureKind.UNAVAILABLE,
        FailureKind.TIMEOUT,
        FailureKind.BROKEN,
        FailureKind.UNAUTHORIZED,
        FailureKind.NOT_FOUND,
    }
)
_FAILURES_TO_OPEN = 5
_FIRST_OPEN_S = 10.0
_LONGEST_OPEN_S = 120.0
_LONGEST_LIMITED_S = 60.0
_DAY_S = 86_400


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until_s: float = 0.0
    opened_times: int = 0
    probing: bool = False
    last: str = ""


@dataclass(frozen=True, slots=True)
class CircuitReport:
    """A circuit for `/readyz`: ``closed``, ``open`` or ``half_open``; the last failure's kind; when it is tried."""

    state: str
    failures: int
    last_failure: str
    retry_at_ms: int | None

    def as_json(self) -> dict[str, Any]:
        """For an answer."""
        return {
            "state": self.state,
            "failures": self.failures,
            "lastFailure": self.last_failure,
            "retryAt": iso_utc(self.retry_at_ms) if self.retry_at_ms else None,
        }


class Health:
    """Circuits by model name."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._circuits: dict[str, _Circuit] = {}

    def available(self, model: str) -> bool:
        """Whether a call may try this model now."""
        circuit = self._circuits.get(model)
        if circuit is None or not circuit.open_until_s:
            return True
        return self._clock.monotonic_s() >= circuit.open_until_s and not circuit.probing

    def started(self, model: str) -> None:
        """A call goes to this model: in half-open it is the one probe."""
        circuit = self._circuits.get(model)
        if circuit and circuit.open_until_s:
            circuit.probing = True

    def succeeded(self, model: str) -> None:
        """It answered: the circuit closes."""
        self._circuits.pop(model, None)

    def failed(self, model: str, error: UpstreamError) -> None:
        """It failed; the circuit opens when that has happened too often, or at once when a limit says so."""
        circuit = self._circuits.setdefault(model, _Circuit())
        was_probe, circuit.probing = circuit.probing, False
        circuit.last = error.kind.value
        limited_s = self._limited_s(error)
        if limited_s:
            circuit.open_until_s = self._clock.monotonic_s() + limited_s
        elif error.kind in _COUNTED:
            circuit.failures += 1
            if was_probe or circuit.failures >= _FAILURES_TO_OPEN:
                pause_s = min(_LONGEST_OPEN_S, _FIRST_OPEN_S * 2**circuit.opened_times)
                circuit.open_until_s = self._clock.monotonic_s() + pause_s
                circuit.opened_times += 1

    def _limited_s(self, error: UpstreamError) -> float:
        """How long a rate limit closes the door; a daily limit does until the next day begins in UTC."""
        if error.kind is FailureKind.DAILY_LIMIT:
            return _DAY_S - (self._clock.now_ms() / 1000) % _DAY_S
        if error.kind is FailureKind.RATE_LIMITED and error.retry_after_s:
            return min(_LONGEST_LIMITED_S, error.retry_after_s)
        return 0.0

    def report(self) -> dict[str, CircuitReport]:
        """Every model that has failed since it last answered."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        reports = {}
        for model, circuit in self._circuits.items():
            retry_at_ms, state = None, "closed"
            if circuit.open_until_s:
                state = "open" if now_s < circuit.open_until_s else "half_open"
                retry_at_ms = now_ms + round(max(0.0, circuit.open_until_s - now_s) * 1000)
            reports[model] = CircuitReport(state, circuit.failures, circuit.last, retry_at_ms)
        return reports
