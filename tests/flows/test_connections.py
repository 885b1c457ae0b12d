"""How requests may come on a connection: in pieces, several at once, in older forms. All are calls like any other."""

import json
import socket
import time
from urllib.parse import urlsplit

import pytest

from tests.support.gateway import RunningGateway
from tests.support.invariants import assert_books_are_right

BODY = json.dumps({"model": "dbrx", "messages": [{"role": "user", "content": "x"}], "max_tokens": 5}).encode()
PATH = "/v1/chat/completions"


def request(gateway: RunningGateway, *lines: str, first: str = f"POST {PATH} HTTP/1.1", body: bytes = BODY) -> bytes:
    head = [first, "Host: x", f"Authorization: Bearer {gateway.agent_key}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def sized(gateway: RunningGateway, *lines: str, first: str = f"POST {PATH} HTTP/1.1") -> bytes:
    return request(gateway, f"Content-Length: {len(BODY)}", *lines, first=first)


def closing(gateway: RunningGateway, *lines: str) -> bytes:
    return sized(gateway, "Connection: close", *lines)


def exchange(gateway: RunningGateway, *pieces: bytes, gap_s: float = 0.0) -> list[tuple[int, bytes]]:
    """What comes back until the other side closes: status and body of each answer."""
    url = urlsplit(gateway.url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as sock:
        for piece in pieces:
            sock.sendall(piece)
            time.sleep(gap_s)
        got = b""
        while piece := sock.recv(65536):
            got += piece
    return list(answers(got))


def answers(got: bytes):
    while got:
        head, _, got = got.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        lines = [line.lower() for line in head.split(b"\r\n")]
        length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        yield status, got[:length]
        got = got[length:]


@pytest.mark.parametrize("path", [PATH, f"{PATH}?api-version=1", "/v1/chat%2Fcompletions"])
def test_a_path_is_a_path(gateway: RunningGateway, path: str) -> None:
    raw = sized(gateway, "Connection: close", first=f"POST {path} HTTP/1.1")
    [(status, body)] = exchange(gateway, raw)
    assert status == 200 and json.loads(body)["choices"]


def test_several_at_once_are_answered_in_order(gateway: RunningGateway) -> None:
    raw = sized(gateway) + request(gateway, first="GET /healthz HTTP/1.1", body=b"") + sized(gateway) + closing(gateway)
    first, health, third, last = exchange(gateway, raw)
    assert [status for status, _ in (first, health, third, last)] == [200] * 4
    assert health[1] == b'{"status":"ok"}'
    ids = {json.loads(body)["id"] for _, body in (first, third, last)}
    assert len(ids) == 3
    assert_books_are_right(gateway)


def test_a_request_in_single_bytes_is_one(gateway: RunningGateway) -> None:
    raw = closing(gateway)
    [(status, _)] = exchange(gateway, *(raw[n : n + 1] for n in range(len(raw))))
    assert status == 200


def test_a_body_after_its_head_and_in_chunks(gateway: RunningGateway) -> None:
    head = request(gateway, "Transfer-Encoding: chunked", "Connection: close", body=b"")
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (BODY[:10], BODY[10:])]
    [(status, _)] = exchange(gateway, head, *chunks, b"0\r\n\r\n", gap_s=0.05)
    assert status == 200


def test_a_client_that_waits_to_be_told_to_go_on(gateway: RunningGateway) -> None:
    url = urlsplit(gateway.url)
    head = request(gateway, f"Content-Length: {len(BODY)}", "Expect: 100-continue", "Connection: close", body=b"")
    with socket.create_connection((url.hostname, url.port), timeout=20) as sock:
        sock.sendall(head)
        assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")
        sock.sendall(BODY)
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_http_1_0_is_answered_and_closed(gateway: RunningGateway) -> None:
    [(status, _)] = exchange(gateway, sized(gateway, first=f"POST {PATH} HTTP/1.0"))
    assert status == 200


def test_another_method_is_refused_by_name(gateway: RunningGateway) -> None:
    raw = request(gateway, "Connection: close", first=f"GET {PATH} HTTP/1.1", body=b"")
    [(status, body)] = exchange(gateway, raw)
    assert status == 405 and json.loads(body)["error"]["code"] == "method_not_allowed"


def test_what_is_no_http_is_refused(gateway: RunningGateway) -> None:
    [(status, _)] = exchange(gateway, b"POST " + PATH.encode() + b" NONSENSE\r\n\r\n")
    assert status == 400


@pytest.mark.parametrize(
    "lines",
    [
        ("Content-Length: 5", "Content-Length: 7"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Content-Length: -5",),
        ("Content-Length: 5x",),
        ("Transfer-Encoding: chunked, identity",),
    ],
)
def test_a_length_that_can_be_read_in_two_ways_is_refused(gateway: RunningGateway, lines: tuple[str, ...]) -> None:
    got = exchange(gateway, request(gateway, *lines, body=b"0\r\n\r\n"))
    assert [status for status, _ in got] == [400]


def test_a_connection_goes_on_after_a_refusal(gateway: RunningGateway) -> None:
    wrong = request(gateway, "Content-Length: 2", body=b"{}")
    (refused, _), (served, _) = exchange(gateway, wrong + closing(gateway))
    assert (refused, served) == (400, 200)


def test_a_head_that_comes_again_is_the_same_call_again(gateway: RunningGateway) -> None:
    other = json.dumps({"model": "dbrx", "messages": [{"role": "user", "content": "y" * 50}], "max_tokens": 7}).encode()
    longer = request(gateway, f"Content-Length: {len(other)}", body=other)
    bad = request(gateway, "Content-Length: 4", body=b"oops")
    in_two = sized(gateway)
    pieces = [sized(gateway), longer, bad, in_two[:-3], in_two[-3:], sized(gateway) * 2, longer, closing(gateway)]
    got = exchange(gateway, *pieces, gap_s=0.3)
    assert [status for status, _ in got] == [200, 200, 400, 200, 200, 200, 200, 200]
    asked = [json.loads(body)["usage"]["prompt_tokens"] for status, body in got if status == 200]
    assert asked[0] < asked[1] == asked[5] and len({asked[n] for n in (0, 2, 3, 4, 6)}) == 1
    assert_books_are_right(gateway)


def test_a_key_that_was_taken_away_is_not_known_by_its_head(gateway: RunningGateway) -> None:
    made = gateway.request("POST", "/api/keys", {"name": "short", "mayName": ["agent:*"]}, key="admin").json
    raw = sized(gateway, "X-Budget-Scopes: agent:a").replace(gateway.agent_key.encode(), made["key"].encode())
    url = urlsplit(gateway.url)
    with socket.create_connection((url.hostname, url.port), timeout=20) as sock:
        statuses = []
        for _ in range(3):
            sock.sendall(raw)
            statuses += [status for status, _ in answers(sock.recv(65536))]
        assert gateway.request("DELETE", f"/api/keys/{made['id']}", key="admin").status == 204
        deadline_s = time.monotonic() + 5  # in force in every worker within a second
        while statuses[-1] == 200 and time.monotonic() < deadline_s:
            sock.sendall(raw)
            statuses += [status for status, _ in answers(sock.recv(65536))]
    assert statuses[:3] == [200] * 3 and statuses[-1] == 401
