"""From a URL to a client of the live state, and a look at whether that server can be trusted with money.

Schemes, each also with ``rediss`` for TLS::

    redis://user:password@host:6379/0
    unix:///run/valkey/valkey.sock?db=0
    redis+sentinel://user:password@host:26379,host:26379/service/0?sentinel_password=...
    redis+cluster://user:password@host:6379,host:6379

Failure policy: no command is ever sent a second time by the client, because it can't know whether the first
one was carried out; the caller repeats those that may be. A pooled connection that was closed meanwhile is
opened anew before a command is sent on it. A cluster's MOVED and ASK are followed: nothing was done then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)

from budget.server_binary import is_supported
from core.errors import ConfigError, StoreUnavailable

StoreClient: TypeAlias = Redis | RedisCluster
#: What a client raises when the store is away or refuses; a cluster's own errors are no RedisError, and uvloop's is a
#: RuntimeError when a command is written to a connection that was reset a moment ago.
STORE_ERRORS = (RedisError, RedisClusterException, OSError, RuntimeError)

CONNECT_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 2.0
HEALTH_CHECK_INTERVAL_S = 30

_POOL_CONNECTIONS = 64
#: A cluster node's pool fails when it is full, instead of making the caller wait: it gets room for a burst.
_NODE_CONNECTIONS = 1000

_SCHEMES = ("redis", "unix", "redis+sentinel", "redis+cluster")


def _flag(text: str) -> bool:
    return text.lower() in ("1", "true", "yes")


#: What may follow the ``?``, and how it is read.
_OPTIONS: Mapping[str, Callable[[str], Any]] = {
    "db": int,
    "username": str,
    "password": str,
    "socket_connect_timeout": float,
    "socket_timeout": float,
    "health_check_interval": int,
    "max_connections": int,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": str,
    "ssl_check_hostname": _flag,
}
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL, taken apart.

    kind: one of `_SCHEMES`.
    nodes: (host, port) in the order written; empty for a Unix socket.
    path: the socket's path, or a Sentinel's service name.
    options: keyword arguments of a redis-py connection.
    sentinel: those for the Sentinels themselves.
    """

    kind: str
    tls: bool
    nodes: tuple[tuple[str, int], ...]
    path: str
    options: dict[str, Any]
    sentinel: dict[str, Any]


def connect(url: str) -> StoreClient:
    """A client for the URL; nothing is sent until the first command. End it with `close`.

    Answers are bytes. Raises ConfigError for a URL that can't be right; its text never has the password.
    """
    target = _parse(url)
    if target.kind == "redis+cluster":
        return _cluster(target)
    if target.kind == "redis+sentinel":
        return _through_sentinel(target)
    options = dict(target.options)
    if target.kind == "unix":
        options |= {"connection_class": UnixDomainSocketConnection, "path": target.path}
        del options["socket_keepalive"]
    else:
        host, port = target.nodes[0]
        options |= {"host": host, "port": port}
        if target.tls:
            options["connection_class"] = SSLConnection
    options.setdefault("max_connections", _POOL_CONNECTIONS)
    # Waits for a free connection, no longer than a command may take, instead of failing in a burst.
    return Redis.from_pool(BlockingConnectionPool(timeout=COMMAND_TIMEOUT_S, retry=_no_retry(), **options))


async def close(client: StoreClient) -> None:
    """End a client of `connect` with all its connections, those to Sentinels included."""
    if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()
    await client.aclose()


def _cluster(target: _Target) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in target.nodes]
    options = {"max_connections": _NODE_CONNECTIONS} | target.options
    if options.pop("db", 0):
        raise ConfigError("REDIS_URL: a cluster has only database 0")
    options |= {"startup_nodes": nodes, "ssl": target.tls, "retry": _no_retry()}
    # reinitialize_steps=0: a MOVED corrects its slot, and never closes the connections that others are using.
    return RedisCluster(reinitialize_steps=0, **options)


class _WaitingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the Sentinels who the primary is for each new connection; a full pool makes the caller wait."""


def _through_sentinel(target: _Target) -> Redis:
    options = {"max_connections": _POOL_CONNECTIONS, "retry": _no_retry(), "ssl": target.tls}
    options |= target.options
    shared = {
        name: value
        for name, value in options.items()
        if name.startswith(("socket_", "ssl")) or name in ("protocol", "retry")
    }
    sentinel = Sentinel(  # type: ignore[no-untyped-call] # redis-py does not annotate it
        list(target.nodes), sentinel_kwargs=shared | target.sentinel, **options
    )
    client: Redis = sentinel.master_for(
        target.path, connection_pool_class=_WaitingSentinelPool, timeout=COMMAND_TIMEOUT_S
    )
    return client


def _no_retry() -> Retry:
    return Retry(NoBackoff(), 0)


def _parse(url: str) -> _Target:
    try:
        parts = urlsplit(url.strip())
        tls, kind = _scheme(parts.scheme)
        options, sentinel = _read_query(parts, kind)
        credentials, _, hosts = parts.netloc.rpartition("@")
        options |= _read_credentials(credentials)
        path, db = _read_path(parts.path, kind)
        if db is not None:
            options.setdefault("db", db)
        nodes = _read_nodes(hosts, 26379 if kind == "redis+sentinel" else 6379) if kind != "unix" else ()
    except ValueError as error:
        raise ConfigError(f"REDIS_URL is not right: {error}") from None
    if kind == "redis" and len(nodes) != 1:
        raise ConfigError("REDIS_URL names several hosts: use redis+sentinel:// or redis+cluster://")
    return _Target(kind, tls, nodes, path, options, sentinel)


def _scheme(scheme: str) -> tuple[bool, str]:
    tls = scheme.startswith("rediss")
    kind = "redis" + scheme.removeprefix("rediss") if tls else scheme
    if kind not in _SCHEMES:
        raise ValueError("it must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")
    return tls, kind


def _read_query(parts: SplitResult, kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": COMMAND_TIMEOUT_S,
        "socket_keepalive": True,
        "health_check_interval": HEALTH_CHECK_INTERVAL_S,
        # The plainest handshake; and only with it redis-py notices, before it sends, that a pooled connection
        # was closed by the server.
        "protocol": 2,
    }
    sentinel: dict[str, Any] = {}
    for name, text in parse_qsl(parts.query):
        if kind == "redis+sentinel" and name in _SENTINEL_OPTIONS:
            sentinel[name.removeprefix("sentinel_")] = text
            continue
        if name not in _OPTIONS:
            raise ValueError(f"an option after the ? is not known; known are {', '.join(sorted(_OPTIONS))}")
        try:
            options[name] = _OPTIONS[name](text)
        except ValueError:
            raise ValueError(f"option {name} is not a number") from None
    return options, sentinel


def _read_credentials(text: str) -> dict[str, str]:
    username, _, password = text.partition(":")
    pairs = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in pairs.items() if value}


def _read_path(path: str, kind: str) -> tuple[str, int | None]:
    """(socket or service, database) as the kind of URL has them."""
    if kind == "unix":
        if not path:
            raise ValueError("a unix:// URL needs the path of the socket")
        return unquote(path), None
    words = [unquote(word) for word in path.split("/") if word]
    service = ""
    if kind == "redis+sentinel":
        if not words:
            raise ValueError("a Sentinel URL needs the service's name: redis+sentinel://host:26379/name")
        service = words.pop(0)
    if len(words) > 1 or any(not word.isdecimal() for word in words):
        raise ValueError("the database after the last slash must be a number")
    return service, int(words[0]) if words else None


def _read_nodes(hosts: str, default_port: int) -> tuple[tuple[str, int], ...]:
    nodes: list[tuple[str, int]] = []
    for text in hosts.split(","):
        part = urlsplit(f"//{text.strip()}")
        if part.hostname is None:
            raise ValueError("a host is missing")
        try:
            port = part.port
        except ValueError:
            # The standard text repeats what was written, and a password with a slash ends up here.
            raise ValueError("a port is not a number; write / and @ in a password as %2F and %40") from None
        nodes.append((part.hostname, port or default_port))
    return tuple(nodes)


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a server says about itself; of a cluster, its first primary, with the problems of all.

    product: ``redis`` or ``valkey``.
    version: such as ``9.1.2``.
    role: ``master`` or ``slave``, in the servers' own words.
    appendonly: False means that what was written since the last snapshot is lost in a crash.
    appendfsync: ``always``, ``everysec`` or ``no``; None if CONFIG is not allowed.
    maxmemory_policy: such as ``noeviction``.
    maxmemory_bytes: 0 means no limit.
    replicas: how many are connected.
    problems: what can lose money or will fail, in plain words; empty if all is well.
    """

    product: str
    version: str
    role: str
    appendonly: bool
    appendfsync: str | None
    maxmemory_policy: str
    maxmemory_bytes: int
    replicas: int = 0
    problems: list[str] = field(default_factory=list)


async def check_server(client: StoreClient) -> ServerReport:
    """Ask the server, or each primary of the cluster, what it is and how safely it keeps data.

    Raises:
        ConfigError: it is neither Redis 7 or later nor Valkey 7.2 or later, or the user may not run INFO.
        StoreUnavailable: it does not answer.
    """
    try:
        if isinstance(client, Redis):
            return await _check_node(client, {})
        await client.initialize()
        primaries = client.get_primaries()
        reports = [await _check_node(client, {"target_nodes": node}) for node in primaries]
    except (AuthenticationError, NoPermissionError) as error:
        raise ConfigError(f"the store refuses REDIS_URL's user: {error}") from error
    except (RedisError, RedisClusterException) as error:
        raise StoreUnavailable(f"the store does not answer: {error}") from error
    for node, report in zip(primaries, reports, strict=True):
        report.problems[:] = [f"{node.name}: {problem}" for problem in report.problems]
    reports[0].problems[:] = [problem for report in reports for problem in report.problems]
    return reports[0]


async def _check_node(client: StoreClient, where: Mapping[str, Any]) -> ServerReport:
    info: Mapping[str, Any] = await client.info(**where)
    product = "valkey" if info.get("server_name") == "valkey" else "redis"
    version = str(info["valkey_version" if product == "valkey" else "redis_version"])
    if not is_supported(product, version):
        raise ConfigError(f"the store is {product} {version}: Redis 7 or Valkey 7.2 is the oldest that works")
    report = ServerReport(
        product=product,
        version=version,
        role=str(info["role"]),
        appendonly=info.get("aof_enabled") == 1,
        appendfsync=await _read_setting(client, "appendfsync", where),
        maxmemory_policy=str(info.get("maxmemory_policy", "")),
        maxmemory_bytes=int(info.get("maxmemory", 0)),
        replicas=int(info.get("connected_slaves", 0)),
    )
    report.problems.extend(_judge(report, info))
    return report


async def _read_setting(client: StoreClient, name: str, where: Mapping[str, Any]) -> str | None:
    """A server's setting; None if CONFIG is renamed, blocked or not allowed, as at managed services."""
    try:
        answer = await client.execute_command("CONFIG GET", name, **where)
    except ResponseError:
        return None
    value = answer.get(name) if isinstance(answer, dict) else None
    return value.decode() if isinstance(value, bytes) else value


def _judge(report: ServerReport, info: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    if report.maxmemory_bytes > 0 and report.maxmemory_policy != "noeviction":
        problems.append(
            f"maxmemory-policy is {report.maxmemory_policy}: when memory is full the server deletes budget "
            "accounts, and their spend is forgotten; set it to noeviction"
        )
    if not report.appendonly:
        problems.append("appendonly is off: a crash forgets the spend since the last snapshot; set it to yes")
    elif report.appendfsync == "no":
        problems.append("appendfsync is no: a machine's crash can forget many seconds of spend; use everysec")
    if info.get("aof_last_write_status") == "err":
        problems.append("the last write of the append-only file failed: look at the server's disk")
    if report.role != "master":
        problems.append("this server is a replica: nothing can be written to it")
    return problems
