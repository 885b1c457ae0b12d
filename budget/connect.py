"""From a URL to a client of the live state, and a look at whether that server can be trusted with money.

Failure policy: no command is ever sent a second time by the client, because it can't know whether the first
one was carried out; the caller repeats those that may be. A pooled connection that was closed meanwhile is
opened anew before a command is sent on it. A cluster's MOVED and ASK are followed: nothing was done then.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

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
from budget.store_url import COMMAND_TIMEOUT_S, Target, parse_url
from core.errors import ConfigError, StoreUnavailable

StoreClient: TypeAlias = Redis | RedisCluster
#: What a client raises when the store is away or refuses; a cluster's own errors are no RedisError, and uvloop's is a
#: RuntimeError when a command is written to a connection that was reset a moment ago.
STORE_ERRORS = (RedisError, RedisClusterException, OSError, RuntimeError)

#: What each client was made for: the hot path has connections of its own to the same server (budget/pipe.py).
_targets: "WeakKeyDictionary[StoreClient, Target]" = WeakKeyDictionary()
_attached: "WeakKeyDictionary[StoreClient, list[Callable[[], Awaitable[None]]]]" = WeakKeyDictionary()

_POOL_CONNECTIONS = 64
#: A cluster node's pool fails when it is full, instead of making the caller wait: it gets room for a burst.
_NODE_CONNECTIONS = 1000


def connect(url: str) -> StoreClient:
    """A client for the URL; nothing is sent until the first command. End it with `close`.

    Answers are bytes. Raises ConfigError for a URL that can't be right; its text never has the password.
    """
    target = parse_url(url)
    client = _cluster(target) if target.kind == "redis+cluster" else _single(target)
    _targets[client] = target
    return client


def _single(target: Target) -> Redis:
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
    """End a client of `connect` with all its connections, those to Sentinels included, and what was attached to it."""
    for also in _attached.pop(client, []):
        await also()
    if isinstance(client, Redis) and isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()
    await client.aclose()


def _cluster(target: Target) -> RedisCluster:
    nodes = [ClusterNode(host, port) for host, port in target.nodes]
    options = {"max_connections": _NODE_CONNECTIONS} | target.options
    if options.pop("db", 0):
        raise ConfigError("REDIS_URL: a cluster has only database 0")
    options |= {"startup_nodes": nodes, "ssl": target.tls, "retry": _no_retry()}
    # reinitialize_steps=0: a MOVED corrects its slot, and never closes the connections that others are using.
    return RedisCluster(reinitialize_steps=0, **options)


class _WaitingSentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Asks the Sentinels who the primary is for each new connection; a full pool makes the caller wait."""


def _through_sentinel(target: Target) -> Redis:
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


async def find_primary(client: StoreClient, key: str) -> tuple[str, int]:
    """Where the primary is that has this key: of a Sentinel's service, of a cluster's slot, or the server itself.

    Raises:
        what a client raises; see `STORE_ERRORS`.
    """
    if isinstance(client, RedisCluster):
        await client.initialize()
        node = client.get_node_from_key(key)
        if node is None:
            raise RedisClusterException("no node of the cluster has this key's slot")
        return str(node.host), int(node.port)
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        host, port = await pool.get_master_address()  # type: ignore[no-untyped-call]
        return str(host), int(port)
    return pool.connection_kwargs["host"], pool.connection_kwargs["port"]


def attach(client: StoreClient, closing: Callable[[], Awaitable[None]]) -> None:
    """Have `close` end something else with a client."""
    _attached.setdefault(client, []).append(closing)


def target_of(client: StoreClient) -> Target:
    """What `connect` made a client for."""
    return _targets[client]


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
