"""The circuit of each model's endpoint, in this worker: closed -> open -> half-open. No I/O.

A model that fails again and again is left out for a while, so that callers do not wait for it; then one call at a
time tries it (the probe), and decides. While a circuit is open, the results of calls that began before say nothing
new: they neither close it nor keep it open for longer. Any answer that is no failure of the endpoint, a refused
request included, shows that it works.
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
_DAY_S = 86_400
_SHORTEST_DAILY_S = 60.0  # the provider's midnight may be a little later than ours


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """When a circuit opens, and for how long.

    failures_to_open: in a row. counted: their kinds.
    first_open_s: doubles each time that the probe fails, up to `longest_open_s`.
    longest_limited_s: most that is believed of a rate limit's ``Retry-After``.
    probe_s: a probe that has not ended by then no longer keeps others from trying.
    """

    failures_to_open: int = 5
    counted: frozenset[FailureKind] = _COUNTED
    first_open_s: float = 10.0
    longest_open_s: float = 120.0
    longest_limited_s: float = 60.0
    probe_s: float = 30.0


@dataclass(slots=True)
class _Circuit:
    """Times are of the monotonic clock, but `since_ms`. open_until_s: None while closed. open_s: how long it was."""

    since_ms: int
    failures: int = 0
    open_until_s: float | None = None
    open_s: float = 0.0
    probe_until_s: float | None = None
    last: str = ""


@dataclass(frozen=True, slots=True)
class CircuitReport:
    """A circuit for `/readyz`.

    state: ``closed``, ``open`` or ``half_open``. since_ms: since when it is closed, or not.
    failures: in a row. last_failure: its kind. retry_at_ms: when it is tried again; None while closed.
    """

    state: str
    since_ms: int
    failures: int
    last_failure: str
    retry_at_ms: int | None

    def as_json(self) -> dict[str, Any]:
        """For an answer."""
        return {
            "state": self.state,
            "since": iso_utc(self.since_ms),
            "failures": self.failures,
            "lastFailure": self.last_failure,
            "retryAt": iso_utc(self.retry_at_ms) if self.retry_at_ms else None,
        }


class Health:
    """Circuits by model name. A model that has not failed has none."""

    def __init__(self, clock: Clock, policy: HealthPolicy | None = None) -> None:
        self._clock = clock
        self._policy = policy or HealthPolicy()
        self._circuits: dict[str, _Circuit] = {}

    @property
    def untroubled(self) -> bool:
        """No model has failed since it last answered."""
        return not self._circuits

    def available(self, model: str) -> bool:
        """Whether a call may try this model now. Claims nothing."""
        circuit = self._circuits.get(model)
        if circuit is None or circuit.open_until_s is None:
            return True
        now_s = self._clock.monotonic_s()
        probing = circuit.probe_until_s is not None and now_s < circuit.probe_until_s
        return now_s >= circuit.open_until_s and not probing

    def started(self, model: str) -> None:
        """A call goes to this model: in half-open it is the one probe."""
        circuit = self._circuits.get(model)
        if circuit is not None and self._half_open(circuit):
            circuit.probe_until_s = self._clock.monotonic_s() + self._policy.probe_s

    def succeeded(self, model: str) -> None:
        """It answered: the circuit closes, unless it was opened while the call ran."""
        circuit = self._circuits.get(model)
        if circuit is not None and not self._open(circuit):
            del self._circuits[model]

    def failed(self, model: str, error: UpstreamError) -> None:
        """It failed; the circuit opens when that has happened too often, or at once when a limit says so."""
        circuit = self._circuits.setdefault(model, _Circuit(self._clock.now_ms()))
        circuit.last = error.kind.value
        limited_s = self._limited_s(error)
        if limited_s:
            self._open_for(circuit, limited_s)
        elif self._open(circuit):
            return
        elif error.kind in self._policy.counted:
            circuit.failures += 1
            if self._half_open(circuit) or circuit.failures >= self._policy.failures_to_open:
                circuit.open_s = min(self._policy.longest_open_s, 2 * circuit.open_s or self._policy.first_open_s)
                self._open_for(circuit, circuit.open_s)
        else:
            self._close(circuit)

    def _open(self, circuit: _Circuit) -> bool:
        return circuit.open_until_s is not None and self._clock.monotonic_s() < circuit.open_until_s

    def _half_open(self, circuit: _Circuit) -> bool:
        return circuit.open_until_s is not None and self._clock.monotonic_s() >= circuit.open_until_s

    def _open_for(self, circuit: _Circuit, seconds: float) -> None:
        """Open it, or keep it open; a shorter reason never shortens a longer one."""
        if not self._open(circuit):
            circuit.since_ms = self._clock.now_ms()
        circuit.open_until_s = max(circuit.open_until_s or 0.0, self._clock.monotonic_s() + seconds)
        circuit.probe_until_s = None

    def _close(self, circuit: _Circuit) -> None:
        if circuit.open_until_s is not None:
            circuit.since_ms = self._clock.now_ms()
        circuit.failures, circuit.open_s = 0, 0.0
        circuit.open_until_s = circuit.probe_until_s = None

    def _limited_s(self, error: UpstreamError) -> float:
        """How long a rate limit closes the door; a daily limit does until the next day begins in UTC."""
        if error.kind is FailureKind.DAILY_LIMIT:
            return max(_SHORTEST_DAILY_S, _DAY_S - (self._clock.now_ms() / 1000) % _DAY_S)
        if error.kind in (FailureKind.RATE_LIMITED, FailureKind.POLICY_LIMITED) and error.retry_after_s:
            return min(self._policy.longest_limited_s, error.retry_after_s)
        return 0.0

    def report(self) -> dict[str, CircuitReport]:
        """Every model that has failed since it last answered."""
        return {model: self._report(circuit) for model, circuit in self._circuits.items()}

    def _report(self, circuit: _Circuit) -> CircuitReport:
        retry_at_ms, state = None, "closed"
        if circuit.open_until_s is not None:
            state = "open" if self._open(circuit) else "half_open"
            left_s = max(0.0, circuit.open_until_s - self._clock.monotonic_s())
            retry_at_ms = self._clock.now_ms() + round(left_s * 1000)
        return CircuitReport(state, circuit.since_ms, circuit.failures, circuit.last, retry_at_ms)
