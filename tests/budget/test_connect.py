import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.exceptions import ConnectionError as StoreConnectionError

from budget.connect import StoreClient, check_server, close, connect
from core.errors import ConfigError, StoreUnavailable
from tests.support.needs import require_binary
from tests.support.stores import (
    RunningServer,
    client_of,
    free_port,
    running_cluster,
    running_redis,
    running_sentinel,
    running_valkey,
)


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[StoreClient]:
    client = connect(url)
    try:
        yield client
    finally:
        await close(client)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RunningServer]:
    with running_redis() as server:
        yield server


def settings_of(url: str) -> dict[str, object]:
    client = connect(url)
    assert isinstance(client, Redis)
    return client.connection_pool.connection_kwargs


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://store", {"host": "store", "port": 6379}),
        ("redis://store:7000/3", {"host": "store", "port": 7000, "db": 3}),
        ("redis://[::1]:7000", {"host": "::1", "port": 7000}),
        ("redis://ann:p%40%2Fw@store", {"username": "ann", "password": "p@/w"}),
        ("redis://:pw@store?db=2", {"password": "pw", "db": 2}),
        ("unix:///run/a%20b.sock?db=1", {"path": "/run/a b.sock", "db": 1}),
        ("redis://store", {"socket_connect_timeout": 1.0, "socket_timeout": 2.0, "socket_keepalive": True}),
        ("redis://store?socket_timeout=0.5", {"socket_timeout": 0.5}),
        ("redis+sentinel://:pw@one:1,two:2/spend/4", {"password": "pw", "db": 4}),
    ],
)
def test_a_url_becomes_settings(url: str, wanted: dict[str, object]) -> None:
    settings = settings_of(url)
    assert {name: settings.get(name) for name in wanted} == wanted


def test_tls_is_checked_unless_told_otherwise() -> None:
    client = connect("rediss://store?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false")
    assert isinstance(client, Redis)
    assert client.connection_pool.connection_class is SSLConnection
    connection = SSLConnection(**client.connection_pool.connection_kwargs)
    assert (connection.ca_certs, connection.check_hostname) == ("/etc/ca.pem", False)
    assert connection.cert_reqs.name == "CERT_REQUIRED"


def test_sentinels_have_their_own_credentials() -> None:
    client = connect("rediss+sentinel://ann:pw@one:1,two/spend?sentinel_username=s&sentinel_password=t")
    assert isinstance(client, Redis)
    pool = client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "spend"
    first, second = (sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels)
    assert (first.connection_kwargs["username"], first.connection_kwargs["password"]) == ("s", "t")
    assert (second.connection_kwargs["host"], second.connection_kwargs["port"]) == ("two", 26379)
    assert first.connection_class is SSLConnection


def test_a_cluster_has_several_nodes() -> None:
    client = connect("redis+cluster://ann:pw@one:1,two")
    assert isinstance(client, RedisCluster)
    assert [(node.host, node.port) for node in client.startup_nodes] == [("one", 1), ("two", 6379)]
    assert client.connection_kwargs["password"] == "pw"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "store:6379",
        "http://:sesame@store",
        "redis://",
        "redis://:sesame@one,two",
        "redis://:sesame@store:port",
        "redis://:sesame/more@store",
        "redis://:sesame@store/first",
        "redis://:sesame@store/1/2",
        "redis://:sesame@store?decode_responses=yes",
        "redis://:sesame@store?socket_timeout=soon",
        "redis://:x?sesame=more@store",
        "unix://",
        "redis+sentinel://:sesame@store",
        "redis+cluster://:sesame@store/1",
    ],
)
def test_a_wrong_url_is_refused_and_its_password_kept(url: str) -> None:
    with pytest.raises(ConfigError, match="REDIS_URL") as caught:
        connect(url)
    assert "sesame" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_the_embedded_store_has_no_problems() -> None:
    with running_valkey() as server:
        async with connected(server.url) as client:
            report = await check_server(client)
    assert (report.product, report.appendonly, report.appendfsync) == ("valkey", True, "everysec")
    assert (report.role, report.maxmemory_policy, report.problems) == ("master", "noeviction", [])


async def test_a_redis_server_has_no_problems(redis_server: RunningServer) -> None:
    async with connected(redis_server.url) as client:
        report = await check_server(client)
    assert (report.product, report.version.split(".")[0], report.problems) == ("redis", "7", [])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"appendonly": "no"}, "appendonly is off"),
        ({"appendfsync": "no"}, "appendfsync is no"),
        ({"replicaof": "127.0.0.1 1"}, "is a replica"),
    ],
)
async def test_what_can_lose_money_is_said(settings: dict[str, str], problem: str) -> None:
    with running_redis(settings) as server:
        async with connected(server.url) as client:
            report = await check_server(client)
    assert len(report.problems) == 1
    assert problem in report.problems[0]


async def test_eviction_without_a_limit_of_memory_evicts_nothing() -> None:
    with running_redis({"maxmemory-policy": "allkeys-lru"}) as server:
        async with connected(server.url) as client:
            assert (await check_server(client)).problems == []


async def test_without_the_right_to_config_a_setting_is_unknown(redis_server: RunningServer) -> None:
    with client_of(redis_server) as admin:
        admin.acl_setuser("app", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-config"])
    async with connected(f"redis://app:pw@127.0.0.1:{redis_server.port}") as client:
        report = await check_server(client)
    assert (report.appendonly, report.appendfsync, report.problems) == (True, None, [])


@pytest.mark.parametrize("user", ["blind:pw", "blind:wrong"])
async def test_a_user_that_the_store_refuses_stops_the_start(redis_server: RunningServer, user: str) -> None:
    with client_of(redis_server) as admin:
        admin.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-info"])
    async with connected(f"redis://{user}@127.0.0.1:{redis_server.port}") as client:
        with pytest.raises(ConfigError, match="refuses REDIS_URL's user"):
            await check_server(client)


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
async def test_a_store_that_is_away_is_unavailable(scheme: str) -> None:
    async with connected(f"{scheme}://127.0.0.1:{free_port()}") as client:
        with pytest.raises(StoreUnavailable):
            await check_server(client)


@contextlib.asynccontextmanager
async def scripted_server(answer: Callable[[bytes], bytes]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Answers each read with ``answer(read)``, and closes on b""; yields its URL and what it read."""
    reads: list[bytes] = []
    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        while read := await reader.read(4096):
            reads.append(read)
            reply = answer(read)
            if not reply:
                break
            writer.write(reply)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", reads
    async with asyncio.timeout(5):  # the client has closed by now
        await asyncio.gather(*[task for task in serving if task])


def handshake(read: bytes) -> bytes:
    """OK to each CLIENT SETINFO, PONG to PING: what a connection sends before its first command."""
    return b"+PONG\r\n" if b"PING" in read else b"+OK\r\n" * read.count(b"SETINFO")


async def test_an_old_server_is_refused() -> None:
    info = b"redis_version:6.2.14\r\nrole:master\r\n"

    def answer(read: bytes) -> bytes:
        return b"$%d\r\n%s\r\n" % (len(info), info) if b"INFO" in read else handshake(read)

    async with scripted_server(answer) as (url, _), connected(url) as client:
        with pytest.raises(ConfigError, match=r"redis 6\.2\.14: Redis 7 or Valkey 7\.2 is the oldest"):
            await check_server(client)


async def test_a_command_that_may_have_been_done_is_not_sent_again() -> None:
    def answer(read: bytes) -> bytes:
        return b"" if b"INCRBY" in read else handshake(read)

    async with scripted_server(answer) as (url, reads), connected(url) as client:
        with pytest.raises(StoreConnectionError):
            await client.incrby("spent", 5)
    assert sum(b"INCRBY" in read for read in reads) == 1


async def test_a_pooled_connection_that_was_closed_is_opened_anew(redis_server: RunningServer) -> None:
    async with connected(redis_server.url) as client:
        await client.set("spent", 1)
        with client_of(redis_server) as admin:
            admin.client_kill_filter(_type="normal", skipme=True)
        await wait_until_closed(client)
        assert await client.incrby("spent", 5) == 6


async def wait_until_closed(client: StoreClient) -> None:
    """Until the loop has seen that the server closed the only pooled connection."""
    assert isinstance(client, Redis)
    (connection,) = client.connection_pool._available_connections
    async with asyncio.timeout(5):
        while not await connection.can_read():
            await asyncio.sleep(0.001)


async def test_a_burst_waits_for_a_connection(redis_server: RunningServer) -> None:
    async with connected(f"{redis_server.url}?max_connections=4") as client:
        await client.set("spent", 0)
        answers = await asyncio.gather(*(client.incrby("spent", 1) for _ in range(200)))
    assert sorted(answers) == list(range(1, 201))


async def test_a_cluster_is_reported_node_by_node() -> None:
    with running_cluster() as cluster:
        with client_of(cluster.nodes[1]) as node:
            node.config_set("appendonly", "no")
        async with connected(cluster.url) as client:
            assert await client.set("a", "1") and await client.set("b", "2")
            report = await check_server(client)
    assert (report.product, report.role) == ("valkey", "master")
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"127.0.0.1:{cluster.nodes[1].port}: appendonly is off")


async def test_a_sentinel_leads_to_the_master() -> None:
    with running_sentinel() as running:
        async with connected(running.url) as client:
            answers = await asyncio.gather(*(client.incrby("spent", 1) for _ in range(200)))
            assert max(answers) == 200
            assert (await check_server(client)).problems == []
        with client_of(running.master) as master:
            assert master.get("spent") == "200"


async def test_tls_works_and_a_stranger_is_refused(tmp_path: Path) -> None:
    certificate, key = _self_signed(tmp_path)
    port = free_port()
    tls = {
        "tls-port": str(port),
        "tls-cert-file": str(certificate),
        "tls-key-file": str(key),
        "tls-auth-clients": "no",
    }
    with running_redis(tls):
        async with connected(f"rediss://localhost:{port}?ssl_ca_certs={certificate}") as client:
            assert (await check_server(client)).problems == []
        async with connected(f"rediss://localhost:{port}") as client:
            with pytest.raises(StoreUnavailable):
                await check_server(client)


def _self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    wish = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([require_binary("openssl"), *wish.split(), *names], check=True, capture_output=True)
    return certificate, key
