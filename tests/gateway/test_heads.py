"""A head that comes again is known by its bytes, and then only where a parser would read the same."""

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.heads import KnownHead, RequestHead, known_head
from gateway.surfaces import OpenAISurface

LINES = b"Host: x\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\nX-Budget-Scopes: agent:a"
FIRST = b"POST /v1/chat/completions HTTP/1.1\r\n"
HEAD = RequestHead(OpenAISurface("chat"), "/v1/chat/completions", [])


def request(body: bytes, lines: bytes = LINES) -> bytes:
    return FIRST + lines.replace(b"%d", b"%d" % len(body)) + b"\r\n\r\n" + body


def learned(data: bytes) -> KnownHead:
    known = known_head(data, HEAD)
    assert known is not None
    return known


class Parsed:
    """What llhttp makes of bytes: bodies of whole requests, and the headers of the first."""

    def __init__(self, data: bytes) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        httptools.HttpRequestParser(self).feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.bodies and name.lower() != b"content-length":
            self.headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.bodies.append(self._body)
        self._body = b""


@pytest.mark.parametrize("name", [b"Content-Length", b"content-length"])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 9, b"x" * 10, b"y" * 1234])
def test_the_same_head_with_another_body_is_known(name: bytes, body: bytes) -> None:
    lines = LINES.replace(b"Content-Length", name)
    known = learned(request(b'{"a": 1}', lines))
    assert known.body(request(body, lines)) == body
    assert known.head is HEAD


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}")[:-1],
        request(b"{}") + b"x",
        request(b"{}") * 2,
        request(b"{}", LINES.replace(b"agent:a", b"agent:b")),
        request(b"{}", LINES + b"\r\nExpect: 100-continue"),
        request(b"{}", LINES + b"\r\nTransfer-Encoding: chunked"),
        request(b"{}", LINES + b"\r\nContent-Length: 0"),
        request(b"{}", LINES.replace(b"%d", b"+2")),
        request(b"{}", LINES.replace(b"%d", b" 2")),
        request(b"{}", LINES.replace(b"%d", b"2 ")),
        request(b"{}", LINES.replace(b"%d", b"0x2")),
        request(b"{}", LINES.replace(b"%d", b"-2")),
        request(b"{}", LINES.replace(b"%d", b"")),
        request(b"{}", LINES.replace(b"%d", b"0000000002")),
        request(b"{}").replace(b"\r\n", b"\n"),
        request(b"{}").replace(b"POST", b"post"),
        b"\r\n" + request(b"{}"),
        b"",
    ],
)
def test_anything_else_is_not(data: bytes) -> None:
    assert learned(request(b"{}")).body(data) is None


@pytest.mark.parametrize(
    "data",
    [
        request(b"{}", b"Host: x\r\nTransfer-Encoding: chunked"),
        request(b"{}", LINES.replace(b"Content-Length", b"CONTENT-LENGTH")),
        request(b"{}") + b"x",
        request(b"{}", LINES + b"\r\nX-Long: " + b"x" * 5000),
    ],
)
def test_a_head_that_can_not_be_known_again_is_not_kept(data: bytes) -> None:
    assert known_head(data, HEAD) is None


@given(
    at=st.integers(0, 200),
    cut=st.integers(0, 3),
    put=st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"0", b"1", b":", b"\x00", b"Content-Length: 1\r\n"]),
    body=st.binary(max_size=12),
)
def test_what_is_known_is_what_a_parser_reads(at: int, cut: int, put: bytes, body: bytes) -> None:
    first, data = request(b'{"a": 1}'), request(body)
    changed = data[:at] + put + data[at + cut :]
    got = learned(first).body(changed)
    if got is not None:
        parsed = Parsed(changed)
        assert parsed.bodies == [got]
        assert parsed.headers == Parsed(first).headers
