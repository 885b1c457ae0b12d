import pytest

from routing.errors import FailureKind, UpstreamError
from routing.health import Health, HealthPolicy
from tests.routing.servers import FakeClock

COUNTED = ["not_sent", "unavailable", "timeout", "broken", "unauthorized", "not_found"]
DOWN = UpstreamError(FailureKind.UNAVAILABLE, "x")


def begins(health: Health, model: str) -> bool:
    """Start a call if the circuit lets it, as the flow does."""
    if not health.available(model):
        return False
    health.started(model)
    return True


def made() -> tuple[Health, FakeClock]:
    clock = FakeClock()
    return Health(clock), clock


def fail(health: Health, times: int, error: UpstreamError = DOWN) -> None:
    for _ in range(times):
        health.failed("m", error)


@pytest.mark.parametrize("kind", COUNTED)
def test_five_failures_in_a_row_open_it_for_ten_seconds(kind: str) -> None:
    health, clock = made()
    error = UpstreamError(FailureKind(kind), "x")
    fail(health, 4, error)
    assert begins(health, "m")
    fail(health, 1, error)
    assert not begins(health, "m")
    assert begins(health, "another")
    clock.pass_s(9.9)
    assert not begins(health, "m")
    clock.pass_s(0.1)
    assert begins(health, "m")


def test_a_success_begins_the_count_anew() -> None:
    health, _ = made()
    for _ in range(3):
        fail(health, 4)
        health.succeeded("m")
    assert health.report() == {}


@pytest.mark.parametrize("kind", ["rejected", "rate_limited", "policy_limited"])
def test_an_answer_that_is_no_failure_of_the_endpoint_does_so_too(kind: str) -> None:
    health, _ = made()
    fail(health, 4)
    fail(health, 1, UpstreamError(FailureKind(kind), "x"))
    fail(health, 4)
    assert health.available("m")


def test_one_probe_at_a_time() -> None:
    health, clock = made()
    fail(health, 5)
    clock.pass_s(10)
    assert [begins(health, "m") for _ in range(3)] == [True, False, False]
    health.succeeded("m")
    assert [begins(health, "m") for _ in range(3)] == [True, True, True]


def test_looking_claims_nothing() -> None:
    health, clock = made()
    fail(health, 5)
    clock.pass_s(10)
    assert [health.available("m") for _ in range(3)] == [True, True, True]
    health.started("m")
    assert not health.available("m")


def test_a_probe_that_is_never_heard_of_again_does_not_block_for_ever() -> None:
    health, clock = made()
    fail(health, 5)
    clock.pass_s(10)
    assert begins(health, "m")
    clock.pass_s(29.9)
    assert not begins(health, "m")
    clock.pass_s(0.1)
    assert begins(health, "m")


def test_each_failed_probe_doubles_the_pause_up_to_two_minutes() -> None:
    health, clock = made()
    fail(health, 5)
    pauses = []
    for _ in range(2000):
        pause_s = 0
        while not health.available("m"):
            clock.pass_s(10)
            pause_s += 10
        pauses.append(pause_s)
        health.started("m")
        fail(health, 1)
    assert pauses[:6] == [10, 20, 40, 80, 120, 120]
    assert pauses[-1] == 120
    clock.pass_s(120)
    health.started("m")
    health.succeeded("m")
    fail(health, 5)
    clock.pass_s(10)
    assert health.available("m")  # and after a success it begins at ten again


def test_calls_that_began_before_it_opened_change_nothing() -> None:
    health, clock = made()
    fail(health, 2000)
    health.succeeded("m")
    fail(health, 1, UpstreamError(FailureKind.REJECTED, "x"))
    assert not health.available("m")
    clock.pass_s(10)
    assert health.available("m")


def test_a_rejected_probe_shows_that_it_works() -> None:
    health, clock = made()
    fail(health, 5)
    clock.pass_s(10)
    health.started("m")
    fail(health, 1, UpstreamError(FailureKind.REJECTED, "x"))
    assert health.report()["m"].state == "closed"
    fail(health, 4)
    assert health.available("m")


@pytest.mark.parametrize(("retry_after_s", "blocked_s"), [(7.0, 7.0), (3600.0, 60.0)])
@pytest.mark.parametrize("kind", ["rate_limited", "policy_limited"])
def test_a_rate_limit_blocks_for_as_long_as_it_says(kind: str, retry_after_s: float, blocked_s: float) -> None:
    health, clock = made()
    fail(health, 1, UpstreamError(FailureKind(kind), "x", retry_after_s=retry_after_s))
    health.succeeded("m")  # of a call that was under way
    clock.pass_s(blocked_s - 0.1)
    assert not health.available("m")
    clock.pass_s(0.2)
    assert health.available("m")


def test_a_rate_limit_that_says_nothing_blocks_nothing() -> None:
    health, _ = made()
    fail(health, 20, UpstreamError(FailureKind.RATE_LIMITED, "x"))
    assert health.available("m")


def test_a_daily_limit_blocks_until_midnight_in_utc() -> None:
    health, clock = made()  # 01:00
    fail(health, 1, UpstreamError(FailureKind.DAILY_LIMIT, "x"))
    fail(health, 1, UpstreamError(FailureKind.RATE_LIMITED, "x", retry_after_s=1))  # does not shorten it
    health.succeeded("m")
    clock.pass_s(23 * 3600 - 1)
    assert not health.available("m")
    clock.pass_s(1)
    assert health.available("m")


def test_a_daily_limit_just_before_midnight_blocks_for_a_minute() -> None:
    health, clock = made()
    clock.pass_s(23 * 3600 - 1)
    fail(health, 1, UpstreamError(FailureKind.DAILY_LIMIT, "x"))
    clock.pass_s(59)
    assert not health.available("m")
    clock.pass_s(1)
    assert health.available("m")


def test_the_report() -> None:
    health, clock = made()
    assert health.report() == {}
    fail(health, 1)
    began = health.report()["m"].as_json()
    assert began == {
        "state": "closed",
        "since": "2026-11-23T01:00:00.000Z",
        "failures": 1,
        "lastFailure": "unavailable",
        "retryAt": None,
    }
    clock.pass_s(1)
    fail(health, 4)
    clock.pass_s(4)
    assert health.report()["m"].as_json() == {
        "state": "open",
        "since": "2026-11-23T01:00:01.000Z",
        "failures": 5,
        "lastFailure": "unavailable",
        "retryAt": "2026-11-23T01:00:11.000Z",
    }
    clock.pass_s(6)
    assert health.report()["m"].state == "half_open"


def test_a_policy_of_ones_own() -> None:
    clock = FakeClock()
    health = Health(clock, HealthPolicy(failures_to_open=1, counted=frozenset({FailureKind.BROKEN}), first_open_s=1))
    fail(health, 3)
    assert health.available("m")
    fail(health, 1, UpstreamError(FailureKind.BROKEN, "x"))
    assert not health.available("m")
    clock.pass_s(1)
    assert health.available("m")
