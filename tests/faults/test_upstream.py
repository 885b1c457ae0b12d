"""The upstream refuses, breaks off, drips or is silent: the caller hears it in time, and what may have been made is
paid for; nothing else is."""

from collections.abc import Callable, Iterator

import pytest

from tests.support.invariants import Events
from tests.support.rig import Rig, Timed, cost_nano, running_rig

TIMEOUT_S = 1.5
#: A deadline is for the call with its fallback: what the second model gets is at least a second.
CALL_S = TIMEOUT_S + 3.0
HEADERS_END = b"\r\n\r\n"


@pytest.fixture(scope="module")
def running() -> Iterator[Rig]:
    with running_rig(SPENDGATE_CALL_TIMEOUT_S=str(TIMEOUT_S), SPENDGATE_LEASE_S="5") as rig:
        yield rig


@pytest.fixture
def rig(running: Rig) -> Iterator[Rig]:
    yield running
    running.to_upstream.heal()
    # Each answer closes the circuit that this fault may have begun to open, in the worker that gave it.
    for _ in range(8):
        running.recovers()


def outcomes(events: Events) -> set[tuple[str, str]]:
    return {(e["type"], e["outcome"]) for e in events}


def assert_charged_in_full(events: Events) -> None:
    assert events and all(e["cost_nano"] == e["held_nano"] and e["basis"] == "estimated" for e in events)


def failed(timed: Timed, status: int) -> None:
    assert timed.answer is not None
    assert timed.status == status, timed.answer.body
    assert timed.seconds < CALL_S


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_connection_costs_nothing(rig: Rig, stream: bool) -> None:
    rig.to_upstream.refuse()
    failed(rig.call(f"refused-{stream}", stream=stream), 502)
    rig.to_upstream.heal()
    events = rig.settled(f"refused-{stream}")
    assert {(e["type"], e["outcome"], e["cost_nano"]) for e in events} == {("void", "not_sent", "0")}


@pytest.mark.parametrize("stream", [False, True])
def test_a_reset_before_the_answer_may_have_cost(rig: Rig, stream: bool) -> None:
    agent = f"before-{stream}"
    rig.to_upstream.cut()
    failed(rig.call(agent, stream=stream), 502)
    rig.to_upstream.heal()
    events = rig.settled(agent, exact=False)
    assert outcomes(events) == {("settle", "broken")}
    assert_charged_in_full(events)


def test_a_reset_in_the_body_may_have_cost(rig: Rig) -> None:
    rig.to_upstream.cut(after=HEADERS_END)
    failed(rig.call("in-body"), 502)
    rig.to_upstream.heal()
    events = rig.settled("in-body", exact=False)
    assert outcomes(events) == {("settle", "broken")}
    assert_charged_in_full(events)


def test_a_reset_that_hits_one_attempt_is_answered_by_the_next() -> None:
    with running_rig() as fresh:  # whose circuits remember nothing
        fresh.to_upstream.cut(times=1)
        timed = fresh.call("one-reset")
        assert timed.answer and timed.status == 200
        events = fresh.settled("one-reset", exact=False)
        assert outcomes(events) == {("settle", "broken"), ("settle", "answered")}
        assert sum(int(e["cost_nano"]) for e in events) == cost_nano(timed.answer)


@pytest.mark.parametrize("surface", ["agent", "openai"])
def test_a_reset_in_a_stream_is_told_and_may_have_cost_all(rig: Rig, surface: str) -> None:
    agent = f"in-stream-{surface}"
    rig.to_upstream.cut(after=b'"content":"')
    if surface == "agent":
        answer = rig.call(agent, stream=True, maxTokens=300).answer
    else:
        body = {"model": "dbrx", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 300}
        answer = rig.gateway.request(
            "POST", "/v1/chat/completions", body, headers={"X-Budget-Scopes": f"agent:{agent}"}
        )
    rig.to_upstream.heal()
    assert answer and answer.status == 200
    assert b'"error":{' in answer.body and b"[DONE]" not in answer.body
    events = rig.settled(agent, exact=False)
    assert outcomes(events) == {("settle", "broken")}
    assert_charged_in_full(events)


def headers(rig: Rig) -> None:
    rig.to_upstream.drip(0.1)


def body(rig: Rig) -> None:
    rig.to_upstream.drip(0.1, after=HEADERS_END)


def silence(rig: Rig) -> None:
    rig.to_upstream.swallow_replies(b"", times=-1)


def blackhole(rig: Rig) -> None:
    rig.to_upstream.blackhole()


@pytest.mark.parametrize(
    ("fault", "stream"),
    [(headers, False), (body, False), (body, True), (silence, True), (blackhole, False)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_takes_too_long_is_cut_off_and_charged(rig: Rig, fault: Callable[[Rig], None], stream: bool) -> None:
    agent = f"{fault.__name__}-{stream}"
    fault(rig)
    timed = rig.call(agent, stream=stream)
    rig.to_upstream.heal()
    assert timed.answer and timed.seconds < CALL_S
    if stream and fault is body:
        assert timed.status == 200 and b'"code":"upstream_timeout"' in timed.answer.body
    else:
        failed(timed, 504)
    events = rig.settled(agent, exact=False)
    assert outcomes(events) == {("settle", "timeout")}
    assert_charged_in_full(events)


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_network_is_waited_for(rig: Rig, stream: bool) -> None:
    rig.to_upstream.delay(0.5)
    timed = rig.call(f"delay-{stream}", stream=stream)
    rig.to_upstream.heal()
    assert timed.status == 200 and timed.seconds >= 0.5
    (settled,) = rig.settled(f"delay-{stream}")
    assert settled["type"] == "settle"
