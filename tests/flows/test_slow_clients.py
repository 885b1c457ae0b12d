"""Clients that are slow, silent or send too much: they cost a bounded time and memory, and no money."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.memory import MB, Memory
from tests.support.simulated import Simulated, running_simulator

CHAT = json.dumps({"model": "dbrx", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}).encode()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    with running_gateway(SPENDGATE_CLIENT_TIMEOUT_S="1", **upstream) as running:
        assert running.chat(agent="warm", maxTokens=5).status == 200
        yield running


@contextlib.contextmanager
def connected(gateway: RunningGateway) -> Iterator[socket.socket]:
    url = urlsplit(gateway.url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # or the system would take megabytes for it
        sock.settimeout(20)
        sock.connect((url.hostname, url.port))
        yield sock


def head(gateway: RunningGateway, *lines: str) -> bytes:
    first = ["POST /v1/chat/completions HTTP/1.1", "Host: x", f"Authorization: Bearer {gateway.agent_key}"]
    return "\r\n".join([*first, *lines]).encode() + b"\r\n"


def all_of(sock: socket.socket) -> bytes:
    """What comes until the other side closes."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65536):
            got += piece
    return got


def test_who_says_nothing_is_let_go(gateway: RunningGateway) -> None:
    began_s = time.monotonic()
    with connected(gateway) as sock:
        assert all_of(sock) == b""
    assert 0.8 < time.monotonic() - began_s < 3


def test_headers_that_drip_are_not_waited_for(gateway: RunningGateway) -> None:
    began_s = time.monotonic()
    with connected(gateway) as sock:
        got = drip(sock, b"POST /v1/chat/completions HTTP/1.1\r\nX-Drip: " + b"x" * 1000)
    assert got.startswith(b"HTTP/1.1 408 ") and 0.8 < time.monotonic() - began_s < 3


def drip(sock: socket.socket, data: bytes) -> bytes:
    """Send a byte every 50 ms until the other side says something."""
    sock.settimeout(0.05)
    for at in range(len(data)):
        sock.sendall(data[at : at + 1])
        with contextlib.suppress(TimeoutError):
            first = sock.recv(65536)
            sock.settimeout(20)
            return first + all_of(sock)
    raise AssertionError("it took all of it")


def test_headers_without_an_end_are_not_kept(gateway: RunningGateway) -> None:
    memory = Memory(gateway)
    with connected(gateway) as sock:
        sock.sendall(head(gateway))
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                sock.sendall(b"X-More: " + b"x" * MB + b"\r\n")
        got = b""
        with contextlib.suppress(ConnectionError):
            got = all_of(sock)
    assert got == b"" or got.startswith(b"HTTP/1.1 431 ")
    assert memory.grown_bytes() < 16 * MB


def test_a_body_that_drips_is_not_waited_for(gateway: RunningGateway, simulator: Simulated) -> None:
    calls, began_s = simulator.bill()["calls"], time.monotonic()
    with connected(gateway) as sock:
        sock.sendall(head(gateway, f"Content-Length: {len(CHAT)}") + b"\r\n")
        got = drip(sock, CHAT)
    assert 0.8 < time.monotonic() - began_s < 3
    assert got.startswith(b"HTTP/1.1 408 ") and b'"code":"request_timeout"' in got
    assert simulator.bill()["calls"] == calls
    assert_books_are_right(gateway)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes_are_refused_unread(gateway: RunningGateway, simulator: Simulated, chunked: bool) -> None:
    calls, memory = simulator.bill()["calls"], Memory(gateway)
    sent = 0
    piece = b"x" * MB
    with connected(gateway) as sock:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {100 * MB}"
        sock.sendall(head(gateway, length) + b"\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                sock.sendall(b"%x\r\n%s\r\n" % (MB, piece) if chunked else piece)
                sent += MB
        with contextlib.suppress(ConnectionError):
            assert all_of(sock).startswith((b"HTTP/1.1 413 ", b"")), "unless the reset was faster"
    assert sent < 90 * MB and memory.grown_bytes() < 24 * MB
    assert simulator.bill()["calls"] == calls
    small = gateway.request("POST", "/v1/chat/completions", b"x" * 5 * MB)
    assert (small.status, small.json["error"]["code"]) == (413, "body_too_large")


def test_who_takes_nothing_of_a_stream_is_let_go(gateway: RunningGateway, simulator: Simulated) -> None:
    # More than the system keeps for a client, which is 4 MB of what was sent and nothing of what was received.
    simulator.set_fault("*", fault="empty_chunks", answer_bytes=20 * MB, times=1)
    body = {"model": "dbrx", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4000}
    raw = json.dumps(body | {"stream": True}).encode()
    memory = Memory(gateway)
    with connected(gateway) as sock:
        named = "X-Budget-Scopes: agent:taker"
        sock.sendall(head(gateway, named, f"Content-Length: {len(raw)}") + b"\r\n" + raw)
        deadline_s = time.monotonic() + 20
        while gateway.spend("taker")["spent"] == 0:
            assert time.monotonic() < deadline_s, "the call is ended"
            time.sleep(0.05)
    (end,) = [e for e in assert_books_are_right(gateway) if ":taker" in e.get("accounts", "") and "before" in e]
    assert (end["basis"], end["outcome"]) == ("estimated", "aborted")
    assert memory.grown_bytes() < 32 * MB


def test_a_patient_client_is_served(gateway: RunningGateway, simulator: Simulated) -> None:
    """Idle between two requests, and waiting for an answer, for longer than the client itself has for its request."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=20)
    headers = {"Authorization": f"Bearer {gateway.agent_key}"}
    simulator.set_fault("*", fault="slow", delay_ms=2600, times=1)
    for _ in range(2):
        connection.request("POST", "/v1/chat/completions", CHAT, headers)
        response = connection.getresponse()
        assert response.status == 200 and response.read()
        own_port = connection.sock.getsockname()[1]
        time.sleep(1.3)
    assert connection.sock.getsockname()[1] == own_port, "on one connection"
    connection.close()
