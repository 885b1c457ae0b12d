"""The benchmark's two C programs agree with each other. Nothing here depends on how fast the machine is."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from bench.speed.contestant import Serving
from bench.speed.measure import STEPS, Plan, Round, measure, measure_direct
from bench.speed.table import Entry, report
from bench.speed.tools import Upstream, compiler, http_request, run_load, running_upstream
from tests.support.needs import not_tested

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    if compiler() is None:
        not_tested("no C compiler on PATH (apt-get install gcc)")


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with running_upstream() as running:
        yield running


@pytest.fixture
def send(upstream: Upstream) -> Any:
    """`run_load` at the upstream. bodies: sent in turn."""

    def load(*bodies: object, path: str = "/v1/chat/completions", **options: Any) -> dict[str, Any]:
        requests = [http_request(upstream.address, path, {}, body) for body in bodies or (BODY,)]
        return run_load(upstream.address, requests, **options)

    return load


def test_every_call_is_counted_on_both_sides(send: Any, upstream: Upstream) -> None:
    result = send(connections=7, count=1000)
    assert (result["total"], result["done"], result["statuses"]) == (1000, 1000, {"200": 1000})
    assert (result["broken"], result["refused"], result["unfinished"], result["stream_events"]) == (0, 0, 0, 0)
    assert upstream.answers() == 1000
    assert 800 < result["body_bytes"] / 1000 < 1200
    assert 0 < result["first_byte_us"]["p50"] <= result["latency_us"]["p99"] <= result["latency_us"]["max"]


def test_chunks_of_a_stream_are_counted(send: Any, upstream: Upstream) -> None:
    upstream.set(chunks=10)
    result = send(BODY | {"stream": True}, connections=3, count=30)
    assert result["stream_events"] == 30 * (10 + 3), "the last of the text, the usage, and [DONE]"
    assert result["done"] == 30


def test_requests_are_sent_in_turn(send: Any, upstream: Upstream) -> None:
    upstream.set(chunks=1)
    assert send(BODY | {"stream": True}, BODY, BODY, connections=1, count=9)["stream_events"] == 3 * 4


def test_the_delay_shows(send: Any, upstream: Upstream) -> None:
    upstream.set(delay_us=50_000)
    result = send(connections=100, count=200)
    assert result["latency_us"]["p50"] >= 50_000 and result["done"] == 200


def test_a_paced_stream_begins_before_it_ends(send: Any, upstream: Upstream) -> None:
    upstream.set(chunks=5, gap_us=20_000)
    result = send(BODY | {"stream": True}, connections=1, count=3)
    assert result["latency_us"]["p50"] - result["first_byte_us"]["p50"] >= 70_000


def test_an_open_loop_counts_from_the_schedule(send: Any, upstream: Upstream) -> None:
    """One connection can make 20 calls a second of 50 ms; 100 are due, so the last waits for seconds."""
    upstream.set(delay_us=50_000)
    closed = send(connections=1, seconds=0.5)
    late = send(connections=1, seconds=0.5, rate=100)
    assert closed["total"] <= 10
    assert late["done"] == late["total"] == 50
    assert late["latency_us"]["max"] >= 50 * 50_000 - 500_000
    assert closed["latency_us"]["p50"] < late["latency_us"]["p50"]


def test_a_warm_up_is_left_out(send: Any, upstream: Upstream) -> None:
    upstream.set(delay_us=20_000)
    result = send(connections=2, seconds=0.2, warm_up_s=0.2, rate=100)
    assert (result["total"], result["done"]) == (40, 20)


def test_a_thousand_connections_and_bodies_in_pieces(send: Any, upstream: Upstream) -> None:
    upstream.set(delay_us=50_000)
    large = BODY | {"filler": "x" * 300_000}
    assert send(large, connections=1000, count=1000)["statuses"] == {"200": 1000}


def test_other_answers_are_told_apart() -> None:
    """503 with its body up to the end of the connection, then a connection closed without a word."""
    numbers = itertools.count()

    made: list[asyncio.Transport] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)  # type: ignore[arg-type] # of a stream, it is a Transport

        def data_received(self, data: bytes) -> None:
            if next(numbers) % 2 == 0:
                made[-1].write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\nno")
            made[-1].close()

    async def story() -> dict[str, Any]:
        async with await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0) as server:
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            request = http_request(address, "/", {}, {})
            found = await asyncio.to_thread(run_load, address, [request], connections=1, count=6)
            for _ in range(5):  # the load has left a connection behind; asyncio takes three turns to accept it
                await asyncio.sleep(0)
        for transport in made:
            transport.abort()
        await asyncio.sleep(0)
        return found

    result = asyncio.run(story())
    assert (result["statuses"], result["refused"], result["broken"], result["done"]) == ({"503": 3}, 3, 3, 0)


def test_a_round_is_measured_and_told(upstream: Upstream) -> None:
    """The upstream stands in for a gateway too."""
    plan = Plan(seconds=0.4, paced_streams=16)
    serving = Serving(upstream.address, [upstream.pid], callers={"1 agent and a team": [{"X": "y"}]})
    direct = measure_direct(upstream, plan)
    one = Round()
    for step in STEPS:
        measure(step, serving, upstream, plan, one)
    assert one.problems == {}
    assert all(value >= 0 for value in one.figures.values()) and one.figures["crowd_p50_us"] >= 50_000
    broken = Round({"cpu_us": 1.0}, {"streams": "no call was answered"})
    yardstick = Entry("nginx", "nginx", "1", "none", [one], [direct])
    entries = [yardstick, Entry("spendgate", "Spendgate", "2", "on", [one], [direct])]
    entries.append(Entry("other", "Other", "3", "off", [broken], [direct]))
    text = report(entries, yardstick, {"Another": "no server"})
    assert "| nginx 1 " in text and "1 agent and a team" in text
    assert "- Other: streams failed in 1 of 1 rounds: no call was answered" in text
    assert "- Not measured: Another: no server." in text
