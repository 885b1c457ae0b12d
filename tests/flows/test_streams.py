"""Streams: passed on as they come, ended when the client goes, always settled."""

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated, running_simulator
from tests.support.waiting import eventually

DBRX = "databricks-dbrx-instruct"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        simulated.change_model(DBRX, chunk_delay_ms=30, output_tokens=400)
        yield simulated


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x", "SPENDGATE_LEASE_S": "1"}
    with running_gateway(**upstream) as running:
        yield running


def start(
    gateway: RunningGateway, agent: str, max_tokens: int
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=20)
    body = {"model": "dbrx", "messages": [{"role": "user", "content": "Tell me"}], "stream": True}
    headers = {"Authorization": f"Bearer {gateway.agent_key}", "X-Budget-Scopes": f"agent:{agent}"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"max_tokens": max_tokens}), headers)
    return connection, connection.getresponse()


def read_event(response: http.client.HTTPResponse) -> bytes:
    while line := response.readline():
        if line.startswith(b"data:"):
            return line
    return b""


def test_the_first_event_comes_while_the_rest_is_being_made(gateway: RunningGateway, simulator: Simulated) -> None:
    connection, response = start(gateway, "first", 300)
    assert response.status == 200 and response.getheader("content-type") == "text/event-stream"
    assert b'"content"' in read_event(response)
    assert simulator.in_flight() == 1, "the upstream is still at it"
    connection.close()
    eventually(lambda: simulator.in_flight() == 0, "the upstream is closed")


def test_a_client_that_leaves_closes_the_upstream_and_pays_for_what_it_got(
    gateway: RunningGateway, simulator: Simulated
) -> None:
    connection, response = start(gateway, "leaver", 300)
    for _ in range(5):
        read_event(response)
    response.close()
    connection.close()
    assert eventually(lambda: simulator.in_flight() == 0, "the upstream is closed") < 1.0
    eventually(lambda: gateway.spend("leaver")["held"] == 0, "the call is settled")
    (settled,) = [e for e in assert_books_are_right(gateway) if ":leaver" in e.get("accounts", "")]
    assert (settled["basis"], settled["outcome"]) == ("estimated", "aborted")
    assert 0 < int(settled["cost_nano"]) < int(settled["held_nano"]) // 2, "neither nothing nor the whole hold"


def test_two_hundred_leave_together_and_nothing_stays_behind(gateway: RunningGateway, simulator: Simulated) -> None:
    gateway.put_budget(scopeType="agent", scopeKey="flock", limitUsd="10")

    def come_and_go(_: int) -> int:
        connection, response = start(gateway, "flock", 200)
        read_event(response)
        response.close()
        connection.close()
        return response.status

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(come_and_go, range(200))) == {200}
    eventually(lambda: simulator.in_flight() == 0, "all upstreams are closed", 10)
    eventually(lambda: gateway.spend("flock")["held"] == 0, "all are settled", 10)
    assert gateway.request("GET", "/readyz", key=None).json["openHolds"] == 0
    assert_books_are_right(gateway)


def test_a_stream_that_outlives_its_lease_keeps_its_hold(gateway: RunningGateway, simulator: Simulated) -> None:
    connection, response = start(gateway, "long", 400)
    began_s = time.monotonic()
    events = 0
    while read_event(response) not in (b"", b"data: [DONE]\n"):
        events += 1
    connection.close()
    assert time.monotonic() - began_s > 2.5 and events > 50, "it took longer than two leases"
    (settled,) = [e for e in assert_books_are_right(gateway) if ":long" in e.get("accounts", "")]
    assert (settled["type"], settled["before"], settled["basis"]) == ("settle", "held", "exact")
    assert int(settled["cost_nano"]) == bill_nano(simulator.bill(recent=1000), agent="long")


def test_what_a_stream_cost_is_said_at_its_end(gateway: RunningGateway) -> None:
    answer = gateway.chat(agent="told", stream=True, maxTokens=20)
    events = [json.loads(line[6:]) for line in answer.body.split(b"\n\n") if line.startswith(b"data: {")]
    assert "".join(e.get("delta", "") for e in events).startswith("You asked")
    done = events[-1]
    assert done["done"] and done["usage"]["outputTokens"] == 20 and done["model"] == DBRX
    assert done["cost"] == gateway.spend("told")["spent"]
    assert answer.body.endswith(b"data: [DONE]\n\n")
