"""Answers that could be read in two ways are refused, and nothing of one answer gets into the next."""

import asyncio
import contextlib
import socket
import struct
import zlib

import pytest

from core.errors import ConfigError
from routing.adapters.http import EventSource, header_lines
from routing.adapters.http_head import Origin
from routing.errors import FailureKind, UpstreamError
from tests.routing.wire import OK, STREAM, client_of, open_stream, post, raw_server, says
from tests.support.streams import Pulled

BODY = b"Content-Length: 2\r\n\r\n{}"
CHUNKED = b"2\r\n{}\r\n0\r\n\r\n"

MALFORMED = {
    "length and chunked": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + CHUNKED,
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "a list of lengths": OK + b"Content-Length: 2, 3\r\n\r\n{} ",
    "negative length": OK + b"Content-Length: -2\r\n\r\n{}",
    "signed length": OK + b"Content-Length: +2\r\n\r\n{}",
    "hexadecimal length": OK + b"Content-Length: 0x2\r\n\r\n{}",
    "empty length": OK + b"Content-Length: \r\n\r\n{}",
    "endless length": OK + b"Content-Length: 99999999999999999999999\r\n\r\n{}",
    "gzip transfer": OK + b"Transfer-Encoding: gzip\r\n\r\n{}",
    "gzip and chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked twice": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKED,
    "chunked in two lines": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked, then not": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "nearly chunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "empty transfer": OK + b"Transfer-Encoding: \r\n\r\n{}",
    "chunked in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "a length in the trailer": STREAM + b"2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
    "folded header": OK + b"X: a\r\n b\r\n" + BODY,
    "NUL in a header": OK + b"X: a\0b\r\n" + BODY,
    "bare LF": OK + b"X: a\n" + BODY,
    "bare LF after the status": b"HTTP/1.1 200 OK\n" + BODY,
    "bare CR": OK + b"X: a\rb\r\n" + BODY,
    "space before the colon": OK + b"Content-Length : 2\r\n\r\n{}",
    "no colon": OK + b"nonsense\r\n" + BODY,
    "no name": OK + b": x\r\n" + BODY,
    "HTTP/2": b"HTTP/2.0 200 OK\r\n" + BODY,
    "HTTP/0.9": b"HTTP/0.9 200 OK\r\n" + BODY,
    "a version that does not exist": b"HTTP/1.7 200 OK\r\n" + BODY,
    "status 99": b"HTTP/1.1 099 X\r\n" + BODY,
    "status 1000": b"HTTP/1.1 1000 X\r\n" + BODY,
    "another protocol": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + OK + BODY,
    "101 and no more": b"HTTP/1.1 101 Switching\r\n\r\n" + OK + BODY,
    "interim answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + OK + BODY,
    "bare LF after a chunk's size": STREAM + b"2\n{}\r\n0\r\n\r\n",
    "a chunk that is too long": STREAM + b"2\r\n{}}\r\n0\r\n\r\n",
    "a chunk's size with a sign": STREAM + b"-2\r\n{}\r\n0\r\n\r\n",
    "a chunk's size in 0x": STREAM + b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk's size beyond 64 bits": STREAM + b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "brotli": OK + b"Content-Encoding: br\r\n" + BODY,
    "twice compressed": OK + b"Content-Encoding: gzip, gzip\r\n" + BODY,
    "large headers": OK + b"".join(b"X-%d: %b\r\n" % (n, b"x" * 1000) for n in range(66)) + BODY,
    "one large header": OK + b"X: " + b"x" * 70_000 + b"\r\n" + BODY,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01",
}


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_answer_is_broken_and_its_connection_dropped(answer: bytes) -> None:
    async with raw_server(says(answer)) as server, client_of(server.port) as client:
        for _ in range(2):
            with pytest.raises(UpstreamError) as caught:
                await post(client)
            assert caught.value.kind is FailureKind.BROKEN
    assert server.connections == 2


@pytest.mark.parametrize("answer", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_answer_is_broken_byte_by_byte_too(answer: bytes) -> None:
    """Also where the packets end between any two bytes."""

    async def turn(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = max(1, len(answer) // 300)
        for at in range(0, len(answer), size):
            writer.write(answer[at : at + size])
            await asyncio.sleep(0)

    async with raw_server(turn) as server, client_of(server.port) as client:
        with pytest.raises(UpstreamError) as caught:
            await post(client)
    assert caught.value.kind is FailureKind.BROKEN


WELL_FORMED = {
    "length": OK + BODY,
    "chunked": STREAM + CHUNKED,
    "chunked, in capitals": OK + b"TRANSFER-ENCODING: Chunked\r\n\r\n" + CHUNKED,
    "chunk extension": STREAM + b"2;a=b\r\n{}\r\n0\r\n\r\n",
    "trailer": STREAM + b"2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: x\r\nContent-Encoding: br\r\n\r\n"
    + OK
    + BODY,
    "no reason": b"HTTP/1.1 200\r\n" + BODY,
    "HTTP/1.0 that keeps": b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + BODY,
    "upgrade offered": OK + b"Upgrade: h2c\r\nConnection: Upgrade\r\n" + BODY,
    "deflate": OK + b"Content-Encoding: deflate\r\nContent-Length: 10\r\n\r\n" + zlib.compress(b"{}"),
    "bare deflate": OK + b"Content-Encoding: deflate\r\nContent-Length: 4\r\n\r\n" + zlib.compress(b"{}")[2:-4],
}


@pytest.mark.parametrize("answer", WELL_FORMED.values(), ids=WELL_FORMED.keys())
@pytest.mark.parametrize("in_bytes", [False, True])
async def test_a_well_formed_answer_leaves_its_connection_for_the_next(answer: bytes, in_bytes: bool) -> None:
    async def turn(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(answer), 1 if in_bytes else len(answer)):
            writer.write(answer[at : at + 1] if in_bytes else answer)
            await asyncio.sleep(0)

    async with raw_server(turn) as server, client_of(server.port) as client:
        for _ in range(3):
            reply = await post(client)
            assert (reply.status, reply.body) == (200, b"{}")
    assert server.connections == 1


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 200 ", OK + b"X: ", OK + b"X", STREAM + b"2;a=", STREAM + b"2\r\n{}\r\n0\r\nX: "],
    ids=["reason", "value", "name", "chunk extension", "trailer"],
)
async def test_a_line_without_end_is_broken_before_it_fills_the_memory(beginning: bytes) -> None:
    async with raw_server(says(beginning, *[b"x" * 20_000] * 20)) as server, client_of(server.port) as client:
        with pytest.raises(UpstreamError) as caught:
            await post(client)
    assert caught.value.kind is FailureKind.BROKEN


UNKEPT = {
    "Connection: close": OK + b"Connection: close\r\n" + BODY,
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n" + BODY,
    "a second answer": OK + BODY + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",
    "nonsense behind": OK + BODY + b"xx",
    "a line break behind": OK + BODY + b"\r\n",
    "a line break behind chunks": STREAM + CHUNKED + b"\r\n",
    "a body where none can be": b"HTTP/1.1 204 X\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("answer", UNKEPT.values(), ids=UNKEPT.keys())
async def test_what_follows_an_answer_is_no_answer_to_anybody(answer: bytes) -> None:
    async with raw_server(says(answer)) as server, client_of(server.port) as client:
        for _ in range(3):
            assert (await post(client)).body in (b"{}", b"")
    assert server.connections == 3


@pytest.mark.parametrize("unasked", [OK + BODY, b"x", b"\r\n", b"HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_bytes_that_nobody_asked_for_drop_an_idle_connection(unasked: bytes) -> None:
    async with raw_server(says(OK + BODY)) as server, client_of(server.port) as client:
        await post(client)
        server.writers[0].write(unasked)
        await asyncio.sleep(0.05)
        assert (await post(client)).body == b"{}"
    assert server.connections == 2


async def test_a_body_may_end_with_its_connection() -> None:
    async with raw_server(says(OK + b"\r\n", b'{"a":', b"1}", close=True)) as server, client_of(server.port) as client:
        for _ in range(2):
            assert (await post(client)).body == b'{"a":1}'
    assert server.connections == 2


async def test_a_body_without_length_that_is_reset_is_broken() -> None:
    async def turn(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b'\r\n{"a":')
        await asyncio.sleep(0.02)
        at_once = struct.pack("ii", 1, 0)  # a reset instead of an end
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        writer.transport.abort()

    async with raw_server(turn) as server, client_of(server.port) as client:
        with pytest.raises(UpstreamError) as caught:
            await post(client)
        assert caught.value.kind is FailureKind.BROKEN


async def test_an_answer_before_the_whole_request_is_out_ends_the_connection() -> None:
    """The server may never read the rest, or take it for the next request."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        gone.set()

    gone = asyncio.Event()
    listening = await asyncio.start_server(early, "127.0.0.1", 0, limit=1024)
    async with listening, client_of(listening.sockets[0].getsockname()[1]) as client:
        reply = await post(client, content=bytes(16_000_000))
        assert reply.status == 413
        assert client._idle == []
        await gone.wait()


async def test_a_large_request_arrives_whole() -> None:
    async with raw_server(says(OK + BODY)) as server, client_of(server.port) as client:
        content = bytes(range(256)) * 16_384
        await post(client, content=content)
        await post(client)
    assert server.requests[0].endswith(b"\r\n\r\n" + content)
    assert server.connections == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "a\r\nEvil: 1"},
        {"X": "a\nEvil: 1"},
        {"X": "a\rb"},
        {"X": "a\0b"},
        {"X\r\nEvil": "a"},
        {"X:": "a"},
        {"": "a"},
        {"X": "€"},
    ],
)
def test_a_header_that_would_leave_its_line_is_never_sent(headers: dict[str, str]) -> None:
    with pytest.raises(UpstreamError) as caught:
        header_lines(headers)
    assert caught.value.kind is FailureKind.NOT_SENT
    assert "Evil" not in caught.value.message or "Evil" in next(iter(headers))


@pytest.mark.parametrize("path", ["/a b", "/a\r\nb", "/ä", "/a\0"])
def test_a_path_that_would_leave_its_line_is_never_sent(path: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        Origin("http://h").head(path, {}, streaming=False)
    assert caught.value.kind is FailureKind.NOT_SENT


@pytest.mark.parametrize(
    "url", ["", "h", "ftp://h", "http://", "http://h:x", "http://u:p@h", "http://h/?a", "http://h/#a", "http://h/a b"]
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(ConfigError):
        Origin(url)


@pytest.mark.parametrize(
    ("url", "host", "shown", "port", "target"),
    [
        ("http://h", "h", b"h", 80, b"/x"),
        ("https://h:8443/v1/", "h", b"h:8443", 8443, b"/v1/x"),
        ("https://h:443", "h", b"h", 443, b"/x"),
        ("http://[::1]:81", "::1", b"[::1]:81", 81, b"/x"),
        ("https://bücher.example", "xn--bcher-kva.example", b"xn--bcher-kva.example", 443, b"/x"),
    ],
)
def test_an_address(url: str, host: str, shown: bytes, port: int, target: bytes) -> None:
    origin = Origin(url)
    head = origin.head("/x", {"A": "b"}, streaming=False)
    assert (origin.host, origin.port) == (host, port)
    assert head.startswith(b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (target, shown))
    assert head.endswith(b"\r\nAccept-Encoding: identity\r\nA: b\r\n")


async def test_a_stream_that_is_compressed_all_the_same() -> None:
    packer = zlib.compressobj(wbits=31)
    first = packer.compress(b"data: 1\n\n") + packer.flush(zlib.Z_SYNC_FLUSH)
    second = packer.compress(b"data: 2\n\n") + packer.flush()
    head = OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [b"%x\r\n%b\r\n" % (len(p), p) for p in (first, second)]
    async with raw_server(says(head, *pieces, b"0\r\n\r\n")) as server, client_of(server.port) as client:
        source = await open_stream(client)
        assert isinstance(source, EventSource)
        pulled = Pulled(source)
        assert [await pulled.next() for _ in range(3)] == [[b"1"], [b"2"], None]


async def test_a_compressed_flood_in_a_stream_is_broken() -> None:
    bomb = zlib.compress(b": no event\n" * 1_500_000, wbits=31)
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with raw_server(says(head + bomb)) as server, client_of(server.port) as client:
        source = await open_stream(client)
        assert isinstance(source, EventSource)
        with pytest.raises(UpstreamError) as caught:
            await Pulled(source).next()
    assert caught.value.kind is FailureKind.BROKEN
