"""Real servers for tests, on free loopback ports in temporary folders, stopped whatever happens."""

import atexit
import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from budget.embedded import EmbeddedValkey
from budget.server_binary import find_server_binary
from tests.support.needs import require_binary

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 5.0
SLOTS = 16384

#: For a URL: a test looks on from a process that is busy itself, and what is fast enough for a gateway is not for it.
PATIENT = "?socket_timeout=30&socket_connect_timeout=30"
_DURABLE = {"appendonly": "yes", "appendfsync": "everysec"}


@dataclass(frozen=True, slots=True)
class RunningServer:
    """One server.

    url: for `budget.connect.connect`.
    """

    url: str
    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(STOP_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """Nodes that share all slots between them, in order."""

    url: str
    nodes: tuple[RunningServer, ...]


@dataclass(frozen=True, slots=True)
class RunningSentinel:
    """One Sentinel that watches one server under the name `service`."""

    url: str
    sentinel: RunningServer
    master: RunningServer
    service: str


@contextlib.contextmanager
def running_valkey(fsync: str = "everysec") -> Iterator[EmbeddedValkey]:
    """The embedded launcher, on a folder of its own."""
    with _folder() as folder, EmbeddedValkey.start(folder / "valkey", fsync=fsync) as server:
        yield server


@contextlib.contextmanager
def running_redis(settings: dict[str, str] | None = None) -> Iterator[RunningServer]:
    """Debian's redis-server, durable unless `settings` (names and values of its configuration) differ."""
    with running_server(require_binary("redis-server"), settings) as server:
        yield server


@contextlib.contextmanager
def running_server(binary: Path, settings: dict[str, str] | None = None) -> Iterator[RunningServer]:
    """This program, durable unless `settings` differ."""
    with _folder() as folder, _running(binary, folder, _DURABLE | (settings or {})) as server:
        yield server


@contextlib.contextmanager
def running_cluster(count: int = 3, binary: Path | None = None) -> Iterator[RunningCluster]:
    """A cluster of primaries without replicas; `binary` None: the one that the embedded store uses."""
    program = find_server_binary(binary).path
    with contextlib.ExitStack() as stack:
        nodes = tuple(_start_node(stack, program) for _ in range(count))
        _join(nodes)
        yield RunningCluster(f"redis+cluster://{','.join(_address(node) for node in nodes)}", nodes)


@contextlib.contextmanager
def running_sentinel() -> Iterator[RunningSentinel]:
    """A server, and a Sentinel alone in its quorum."""
    binary = require_binary("redis-server")
    with _folder() as folder, running_redis() as master:
        config = folder / "sentinel.conf"
        config.write_text(f"sentinel monitor spend 127.0.0.1 {master.port} 1\n", encoding="ascii")
        with _running(binary, folder, {}, (str(config), "--sentinel")) as sentinel:
            with client_of(sentinel) as client:
                _until(lambda: _watches(client, "spend"), "the Sentinel does not see its master", sentinel)
            yield RunningSentinel(f"redis+sentinel://{_address(sentinel)}/spend", sentinel, master, "spend")


def client_of(server: RunningServer) -> redis.Redis:
    """A blocking client of one server, which fails at once when it is away."""
    return redis.Redis(
        port=server.port, socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True, protocol=2
    )


def free_port() -> int:
    """A loopback port that is free now; another process may still take it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sg-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def _running(
    binary: Path, folder: Path, settings: dict[str, str], first: tuple[str, ...] = ()
) -> Iterator[RunningServer]:
    server = _start(binary, folder, settings, first)
    atexit.register(server.process.kill)
    try:
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            server.kill()
        atexit.unregister(server.process.kill)


def _start(binary: Path, folder: Path, settings: dict[str, str], first: tuple[str, ...]) -> RunningServer:
    """Start and wait for PONG; once more on another port if somebody took the first one meanwhile."""
    for _ in range(3):
        port = free_port()
        process = _spawn(binary, folder, port, settings, first)
        server = RunningServer(f"redis://127.0.0.1:{port}/0", port, folder, process)
        if _came_up(server):
            return server
        server.kill()
    raise RuntimeError(f"{binary} does not start:\n{_log(folder)}")


def _spawn(
    binary: Path, folder: Path, port: int, settings: dict[str, str], first: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    plain = {"port": str(port), "bind": "127.0.0.1", "dir": str(folder), "save": "", "daemonize": "no"}
    words = [word for name, value in (plain | settings).items() for word in (f"--{name}", value)]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            [binary, *first[:1], *words, *first[1:]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _start_node(stack: contextlib.ExitStack, program: Path) -> RunningServer:
    folder = stack.enter_context(_folder())
    settings = {
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": "3000",
        "cluster-port": str(free_port()),
        "cluster-announce-ip": "127.0.0.1",
    }
    return stack.enter_context(_running(program, folder, _DURABLE | settings))


def _join(nodes: tuple[RunningServer, ...]) -> None:
    """Give each node its share of the slots, introduce them, and wait until all agree that all is well."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client_of(node)) for node in nodes]
        for number, client in enumerate(clients):
            first, after = (SLOTS * part // len(nodes) for part in (number, number + 1))
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, client in zip(nodes[1:], clients[1:], strict=True):
            bus_port = client.config_get("cluster-port")["cluster-port"]
            clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus_port)
        for node, client in zip(nodes, clients, strict=True):
            _until(partial(_is_joined, client, len(nodes)), "the cluster does not come up", node)


def _is_joined(client: redis.Redis, count: int) -> bool:
    info = client.cluster("INFO")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == count


def _watches(client: redis.Redis, service: str) -> bool:
    """True once it follows the master and finds it up."""
    masters = client.sentinel_masters()
    assert isinstance(masters, dict)
    return service in masters and not masters[service]["is_sdown"]


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _came_up(server: RunningServer) -> bool:
    """False if the process ended or stayed silent, or if a stranger answers on its port."""
    with client_of(server) as client:
        settled = _wait(lambda: server.process.poll() is not None or _answers(client))
        if not settled or server.process.poll() is not None:
            return False
        return bool(client.info("server")["process_id"] == server.process.pid)


def _address(server: RunningServer) -> str:
    return f"127.0.0.1:{server.port}"


def _log(folder: Path) -> str:
    return (folder / "server.log").read_text(encoding="utf-8", errors="replace")[-2000:]


def _until(done: Callable[[], bool], fault: str, server: RunningServer) -> None:
    if not _wait(done):
        raise RuntimeError(f"{fault}:\n{_log(server.folder)}")


def _wait(done: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not done():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True
