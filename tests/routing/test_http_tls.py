"""TLS: certificates are checked, sessions are resumed, and an end that anybody could have made is none."""

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest

from routing.adapters.http import HttpClient
from routing.errors import FailureKind, UpstreamError
from tests.routing.wire import OK, client_of, post, raw_server, says, until

ANSWER = OK + b"Content-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=elsewhere",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path.with_name("key"), "-out", path.with_name("cert")],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.with_name("key").read_bytes() + path.with_name("cert").read_bytes())
    return path


def server_context(certificate: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.maximum_version = version
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("cert")))


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_second_connection_resumes_the_session_of_the_first(
    certificate: Path, version: ssl.TLSVersion
) -> None:
    reused: list[bool] = []

    async def turn(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reused.append(writer.get_extra_info("ssl_object").session_reused)
        writer.write(ANSWER)

    context = server_context(certificate, version)
    async with raw_server(turn, ssl=context) as server, client_of(server.port, "https") as client:
        for _ in range(3):
            assert (await post(client)).body == b"{}"
            client._idle[0].abort()
        assert reused == [False, True, True]


async def test_a_certificate_that_nobody_vouches_for(certificate: Path) -> None:
    async with (
        raw_server(says(ANSWER), ssl=server_context(certificate)) as server,
        client_of(server.port, "https") as client,
    ):
        with pytest.raises(UpstreamError) as caught:
            await post(client)
        assert caught.value.kind is FailureKind.NOT_SENT
        assert "SSLCertVerificationError" in caught.value.message
    assert server.requests == []


@pytest.mark.usefixtures("trusted")
async def test_a_certificate_for_another_name(certificate: Path) -> None:
    async with (
        raw_server(says(ANSWER), ssl=server_context(certificate)) as server,
        client_of(server.port, "https") as client,
    ):
        client._origin.host = "localhost"  # the certificate names the address only
        with pytest.raises(UpstreamError) as caught:
            await post(client)
        assert caught.value.kind is FailureKind.NOT_SENT
    assert server.requests == []


async def without_length(client: HttpClient) -> bytes:
    return (await post(client)).body


@pytest.mark.usefixtures("trusted")
async def test_a_body_without_length_ends_with_tls_goodbye(certificate: Path) -> None:
    turn = says(OK + b"\r\n{}", close=True)
    async with (
        raw_server(turn, ssl=server_context(certificate)) as server,
        client_of(server.port, "https") as client,
    ):
        assert await without_length(client) == b"{}"


@pytest.mark.usefixtures("trusted")
async def test_a_body_without_length_that_is_cut_without_goodbye_is_broken(certificate: Path) -> None:
    """Anybody on the way can end a TCP connection."""

    async def turn(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"\r\n{}")
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async with (
        raw_server(turn, ssl=server_context(certificate)) as server,
        client_of(server.port, "https") as client,
    ):
        with pytest.raises(UpstreamError) as caught:
            await without_length(client)
        assert caught.value.kind is FailureKind.BROKEN


@pytest.mark.usefixtures("trusted")
async def test_a_cancelled_call_over_tls_is_gone_at_once(certificate: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        raw_server(hang, ssl=server_context(certificate)) as server,
        client_of(server.port, "https") as client,
    ):
        task = asyncio.create_task(post(client))
        await until(lambda: server.requests)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: server.gone == 1, within_s=1)
        assert (client._slots, client._all) == (0, set())
