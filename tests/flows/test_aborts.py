"""The client goes away; what becomes of its call is the endpoint's to say: estimate, drain or charge_hold."""

import http.client
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated, running_simulator
from tests.support.waiting import eventually

CLOSES, DRAINS = "databricks-dbrx-instruct", "databricks-mixtral-8x7b-instruct"
HOLDS = "databricks-meta-llama-3-1-8b-instruct"
ROUTES = """
endpoints:
  closes: {{kind: databricks, base_url: "{url}", api_key: x}}
  drains: {{kind: databricks, base_url: "{url}", api_key: x, on_abort: drain}}
  holds: {{kind: databricks, base_url: "{url}", api_key: x, on_abort: charge_hold}}
models:
  - {{name: databricks-dbrx-instruct, endpoint: closes, role: primary}}
  - {{name: databricks-mixtral-8x7b-instruct, endpoint: drains}}
  - {{name: databricks-meta-llama-3-1-8b-instruct, endpoint: holds}}
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator(chunk_delay_ms=10, output_tokens=200) as simulated:
        yield simulated


@pytest.fixture(autouse=True)
def without_faults(simulator: Simulated) -> Iterator[None]:
    yield
    simulator.clear_faults()


@pytest.fixture(scope="module")
def routes(simulator: Simulated, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("routes") / "routes.yaml"
    path.write_text(ROUTES.format(url=simulator.base_url))
    return path


@pytest.fixture(scope="module")
def gateway(routes: Path) -> Iterator[RunningGateway]:
    with running_gateway(SPENDGATE_ROUTES=str(routes)) as running:
        yield running


def begin(gateway: RunningGateway, model: str, agent: str, **fields: object) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=20)
    body = {"model": model, "messages": [{"role": "user", "content": "Tell me"}], "max_tokens": 300} | fields
    headers = {"Authorization": f"Bearer {gateway.agent_key}", "X-Budget-Scopes": f"agent:{agent}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection


def leave_in_mid_stream(gateway: RunningGateway, model: str, agent: str) -> None:
    connection = begin(gateway, model, agent, stream=True)
    response = connection.getresponse()
    for _ in range(6):
        response.readline()
    response.close()
    connection.close()


def leave_before_the_answer(
    gateway: RunningGateway, simulator: Simulated, model: str, agent: str, **fields: object
) -> None:
    connection = begin(gateway, model, agent, **fields)
    eventually(lambda: simulator.in_flight() == 1, "the call reaches the upstream")
    connection.close()


def ended(gateway: RunningGateway, agent: str) -> dict[str, str]:
    """The event that ended the agent's only call; the books are checked on the way."""
    eventually(lambda: gateway.spend(agent)["held"] == 0, "the call has ended")
    (event,) = [e for e in assert_books_are_right(gateway) if f":{agent}" in e.get("accounts", "") and "before" in e]
    return event


def billed(simulator: Simulated, agent: str) -> int:
    simulator.wait_idle()
    return bill_nano(simulator.bill(recent=1000), agent=agent)


def test_drained_a_stream_is_charged_exactly(gateway: RunningGateway, simulator: Simulated) -> None:
    leave_in_mid_stream(gateway, DRAINS, "drained-stream")
    event = ended(gateway, "drained-stream")
    assert (event["basis"], event["outcome"], event["on_abort"]) == ("exact", "aborted", "drain")
    assert int(event["cost_nano"]) == billed(simulator, "drained-stream")


def test_drained_an_answer_is_charged_exactly(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(DRAINS, fault="slow", delay_ms=600, times=1)
    leave_before_the_answer(gateway, simulator, DRAINS, "drained-answer")
    event = ended(gateway, "drained-answer")
    assert (event["basis"], event["outcome"]) == ("exact", "aborted")
    assert int(event["cost_nano"]) == billed(simulator, "drained-answer")


def test_estimated_a_stream_is_charged_by_what_was_seen(gateway: RunningGateway, simulator: Simulated) -> None:
    leave_in_mid_stream(gateway, CLOSES, "seen")
    assert eventually(lambda: simulator.in_flight() == 0, "the upstream is closed") < 1
    event = ended(gateway, "seen")
    assert (event["basis"], event["outcome"], event["on_abort"]) == ("estimated", "aborted", "estimate")
    assert billed(simulator, "seen") <= int(event["cost_nano"]) < int(event["held_nano"]) // 2


def test_estimated_a_stream_of_which_nothing_came_is_charged(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(CLOSES, fault="hang", billed=True, times=1)
    leave_before_the_answer(gateway, simulator, CLOSES, "unseen", stream=True)
    assert eventually(lambda: simulator.in_flight() == 0, "the upstream is closed") < 1
    event = ended(gateway, "unseen")
    assert (event["type"], event["basis"], event["outcome"]) == ("settle", "estimated", "aborted")
    assert 0 < billed(simulator, "unseen") <= int(event["cost_nano"])
    assert event["cost_nano"] == event["held_nano"], "it was sent, and nobody knows what became of it"


def test_estimated_an_answer_that_is_not_streamed_is_read_on(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(CLOSES, fault="slow", delay_ms=600, times=1)
    leave_before_the_answer(gateway, simulator, CLOSES, "unheard")
    event = ended(gateway, "unheard")
    assert (event["basis"], event["outcome"], event["on_abort"]) == ("exact", "aborted", "estimate")
    assert int(event["cost_nano"]) == billed(simulator, "unheard")


@pytest.mark.parametrize("stream", [False, True])
def test_the_whole_hold_is_charged(gateway: RunningGateway, simulator: Simulated, stream: bool) -> None:
    agent = f"whole-{stream}"
    if stream:
        leave_in_mid_stream(gateway, HOLDS, agent)
    else:
        simulator.set_fault(HOLDS, fault="hang", times=1)
        leave_before_the_answer(gateway, simulator, HOLDS, agent)
    assert eventually(lambda: simulator.in_flight() == 0, "the upstream is closed") < 1
    event = ended(gateway, agent)
    assert (event["basis"], event["outcome"], event["on_abort"]) == ("estimated", "aborted", "charge_hold")
    assert int(event["cost_nano"]) == int(event["held_nano"]) >= billed(simulator, agent)


def test_who_stays_notices_none_of_this(gateway: RunningGateway, simulator: Simulated) -> None:
    for model in (CLOSES, DRAINS, HOLDS):
        for stream in (False, True):
            assert gateway.chat(agent=f"stays-{model[11:15]}", modelId=model, maxTokens=30, stream=stream).status == 200
        agent = f"stays-{model[11:15]}"
        assert round(gateway.spend(agent)["spent"] * 10**9) == billed(simulator, agent)


def test_a_drain_has_its_limits(routes: Path, simulator: Simulated) -> None:
    limits = {"SPENDGATE_ABORT_DRAIN_S": "1", "SPENDGATE_ABORT_DRAIN_BYTES": "2000"}
    with running_gateway(SPENDGATE_ROUTES=str(routes), **limits) as gateway:
        leave_in_mid_stream(gateway, DRAINS, "bytes")
        event = ended(gateway, "bytes")
        assert (event["basis"], event["outcome"]) == ("estimated", "aborted")
        assert 0 < int(event["cost_nano"]) < int(event["held_nano"]) // 2
        for stream in (False, True):
            simulator.set_fault(DRAINS, fault="hang", times=1)
            leave_before_the_answer(gateway, simulator, DRAINS, f"time-{stream}", stream=stream)
            waited_s = eventually(lambda: simulator.in_flight() == 0, "the upstream is closed")
            assert 0.5 < waited_s < 3
            assert ended(gateway, f"time-{stream}")["basis"] == "estimated"


def test_who_leaves_before_anything_is_sent_pays_nothing(gateway: RunningGateway, simulator: Simulated) -> None:
    assert gateway.chat(agent="warm", maxTokens=5).status == 200
    calls = simulator.bill()["calls"]
    store = gateway.store_pid()
    os.kill(store, signal.SIGSTOP)
    try:
        connection = begin(gateway, CLOSES, "unsent")
        own_port = connection.sock.getsockname()[1]
        eventually(lambda: unread_bytes(own_port) == 0, "the request has arrived")
        connection.close()
        eventually(lambda: unread_bytes(own_port) is None, "the worker has noticed that its client is gone")
    finally:
        os.kill(store, signal.SIGCONT)
    eventually(lambda: gateway.request("GET", "/readyz", key=None).json["openHolds"] == 0, "the hold has ended")
    event = ended(gateway, "unsent")
    assert (event["type"], event["cost_nano"], event["outcome"]) == ("void", "0", "aborted")
    assert simulator.bill()["calls"] == calls


def unread_bytes(own_port: int) -> int | None:
    """What of a connection from this port the worker has not read yet; None once it has closed its side."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, queues = line.split()[:5]
        if int(remote.rpartition(":")[2], 16) == own_port and state in ("01", "08"):  # established, or left by us
            return int(queues.partition(":")[2], 16)
    return None


def test_who_leaves_is_not_tried_for_again(gateway: RunningGateway, simulator: Simulated) -> None:
    simulator.set_fault(CLOSES, fault="unavailable", retry_after_s=1)
    attempts = requests(simulator)
    connection = begin(gateway, CLOSES, "no-more")
    eventually(lambda: requests(simulator) > attempts, "it was tried once")
    connection.close()
    eventually(lambda: gateway.request("GET", "/readyz", key=None).json["openHolds"] == 0, "the call has ended")
    outcomes = [
        (e["type"], e["outcome"]) for e in assert_books_are_right(gateway) if ":no-more" in e.get("accounts", "")
    ]
    assert ("void", "unavailable") in outcomes and gateway.spend("no-more")["spent"] == 0
    assert requests(simulator) == attempts + 1


def requests(simulator: Simulated) -> int:
    return int(simulator.bill()["models"].get(CLOSES, {}).get("requests", 0))
