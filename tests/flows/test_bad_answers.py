"""Answers that are nonsense, too large, too slow or without an end: bounded in memory and time, said, and paid for."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.memory import MB, Memory
from tests.support.simulated import Simulated, running_simulator

#: fault -> (status, code) of an answer, code in a stream.
BAD: dict[str, tuple[int, str, str]] = {
    "garbage": (502, "upstream_broken", "upstream_broken"),
    "nan_usage": (502, "upstream_broken", "upstream_broken"),
    "invalid_utf8": (502, "upstream_broken", "upstream_broken"),
    "wrong_shape": (502, "upstream_broken", "upstream_broken"),
    "huge_answer": (502, "upstream_broken", "upstream_broken"),
    "gzip_bomb": (502, "upstream_broken", "upstream_broken"),
    "truncated": (502, "upstream_broken", "upstream_broken"),
    "drip": (504, "upstream_timeout", "upstream_timeout"),
    "hang": (504, "upstream_timeout", "upstream_timeout"),
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    limits = {"SPENDGATE_CALL_TIMEOUT_S": "4", "SPENDGATE_STREAM_TIMEOUT_S": "6"}
    with running_gateway(**upstream, **limits) as running:
        assert running.chat(agent="warm", maxTokens=5).status == 200
        yield running
    simulator.clear_faults()


def settlements(gateway: RunningGateway, agent: str) -> list[dict[str, str]]:
    events = assert_books_are_right(gateway)
    return [e for e in events if e["type"] == "settle" and f":{agent}" in e.get("accounts", "")]


def stream_error(body: bytes) -> dict[str, Any]:
    """The error that a stream ends with."""
    assert b"[DONE]" not in body
    lines = [line for line in body.split(b"\n\n") if line.startswith(b"data: ")]
    error: dict[str, Any] = json.loads(lines[-1][6:])["error"]
    return error


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("fault", BAD)
def test_a_bad_answer(gateway: RunningGateway, simulator: Simulated, fault: str, stream: bool) -> None:
    agent = f"bad-{fault}-{stream}".replace("_", "-").lower()
    status, code, stream_code = BAD[fault]
    simulator.set_fault("*", fault=fault)
    memory, began_s = Memory(gateway), time.monotonic()
    answer = gateway.chat(agent=agent, maxTokens=50, stream=stream)
    assert time.monotonic() - began_s < 10
    assert memory.grown_bytes() < 64 * MB
    if stream and answer.status == 200:
        assert stream_error(answer.body)["code"] == stream_code
    else:
        assert (answer.status, answer.json["error"]["code"]) == (status, code)
    simulator.wait_idle()
    ends = settlements(gateway, agent)
    assert ends and all(int(e["cost_nano"]) >= int(e["held_nano"]) for e in ends), "at its bound, or what came"
    billed = bill_nano(simulator.bill(recent=1000), agent=agent)
    assert sum(int(e["cost_nano"]) for e in ends) == round(gateway.spend(agent)["spent"] * 10**9) >= billed
    simulator.clear_faults()
    assert gateway.chat(agent="after", modelId="llama-3-1-8b", maxTokens=5).status == 200, "none the worse for it"


def test_an_answer_without_an_end_is_cut(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault("*", fault="endless")
    memory = Memory(gateway)
    assert gateway.chat(agent="no-end", maxTokens=10).status == 502
    assert memory.grown_bytes() < 64 * MB
    assert all(e["cost_nano"] == e["held_nano"] for e in settlements(gateway, "no-end"))


def test_what_is_too_large_is_said(gateway: RunningGateway, simulator: Simulated) -> None:
    for fault in ("huge_answer", "gzip_bomb"):
        simulator.set_fault("*", fault=fault)
        assert "larger than 16777216 bytes" in gateway.chat(agent="large", maxTokens=5).json["error"]["message"]


def test_a_stream_of_nothing_has_an_end(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault("*", fault="empty_chunks")
    memory = Memory(gateway)
    answer = gateway.chat(agent="nothing", maxTokens=10, stream=True)
    assert "larger than" in stream_error(answer.body)["message"]
    assert memory.grown_bytes() < 16 * MB
    (end,) = settlements(gateway, "nothing")
    assert int(end["cost_nano"]) == int(end["held_nano"])


def test_a_stream_that_goes_on_beyond_what_was_granted_is_posted_in_full(
    gateway: RunningGateway, simulator: Simulated
) -> None:
    simulator.change_model("databricks-dbrx-instruct", chunk_delay_ms=1)
    simulator.set_fault("*", fault="endless")
    answer = gateway.chat(agent="beyond", maxTokens=10, stream=True)
    simulator.change_model("databricks-dbrx-instruct", chunk_delay_ms=0)
    assert "beyond max_tokens" in stream_error(answer.body)["message"]
    simulator.wait_idle()
    (end,) = settlements(gateway, "beyond")
    overage = int(end["cost_nano"]) - int(end["held_nano"])
    assert int(end["overage_nano"]) == overage > 0
    assert int(end["cost_nano"]) >= bill_nano(simulator.bill(recent=1), agent="beyond")


def test_a_stream_that_never_stalls_has_a_deadline(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.change_model("databricks-dbrx-instruct", chunk_delay_ms=500, output_tokens=4000)
    try:
        began_s = time.monotonic()
        answer = gateway.chat(agent="steady", maxTokens=4000, stream=True)
        assert 5 < time.monotonic() - began_s < 8
    finally:
        simulator.change_model("databricks-dbrx-instruct", chunk_delay_ms=0, output_tokens=None)
    error = stream_error(answer.body)
    assert (error["code"], error["message"]) == ("upstream_timeout", "upstream: the stream takes longer than 6 s")
    (end,) = settlements(gateway, "steady")
    assert (end["outcome"], end["cost_nano"]) == ("timeout", end["held_nano"])


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
def test_usage_that_comes_twice_counts_once(gateway: RunningGateway, simulator: Simulated, stream: bool) -> None:
    simulator.set_fault("*", fault="usage_twice")
    assert gateway.chat(agent="twice", maxTokens=50, stream=stream).status == 200
    (end,) = settlements(gateway, "twice")
    simulator.wait_idle()
    last = simulator.bill(recent=1)
    assert (end["basis"], int(end["cost_nano"])) == ("exact", bill_nano(last, agent="twice"))


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
def test_a_cost_above_the_hold_is_posted_in_full_and_alarmed(
    gateway: RunningGateway, simulator: Simulated, stream: bool
) -> None:
    agent = f"over-{stream}".lower()
    gateway.put_budget(scopeType="agent", scopeKey=agent, limitUsd="0.01", hardCap=1)
    simulator.set_fault("*", fault="huge_usage", usage_tokens=100_000)
    assert gateway.chat("the secret of the prompt", agent=agent, maxTokens=10, stream=stream).status == 200
    (end,) = settlements(gateway, agent)
    overage = int(end["overage_nano"])
    assert overage == int(end["cost_nano"]) - int(end["held_nano"]) == 100_000 * 3000 - int(end["held_nano"]) > 0
    (alarm,) = [line for line in map(json.loads, gateway.log.read_text().splitlines()) if "overage" in str(line)]
    assert alarm["level"] == "error"
    for told in (end["hold"], end["cost_nano"], end["held_nano"], str(overage), end["accounts"], f"agent:{agent} "):
        assert told in alarm["message"]
    assert "secret of the prompt" not in gateway.log.read_text()
    assert gateway.request("GET", "/readyz", key=None).json["overages"] == 1
    refused = gateway.chat(agent=agent, maxTokens=10)
    assert (refused.status, refused.json["error"]["code"]) == (402, "budget_stopped")
