"""URLs of the live state.

Schemes, each also with ``rediss`` for TLS::

    redis://user:password@host:6379/0
    unix:///run/valkey/valkey.sock?db=0
    redis+sentinel://user:password@host:26379,host:26379/service/0?sentinel_password=...
    redis+cluster://user:password@host:6379,host:6379
"""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from core.errors import ConfigError

CONNECT_TIMEOUT_S = 1.0
COMMAND_TIMEOUT_S = 2.0
HEALTH_CHECK_INTERVAL_S = 30

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
_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")


@dataclass(frozen=True, slots=True)
class Target:
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


def parse_url(url: str) -> Target:
    """What a URL says.

    Raises:
        ConfigError: it can't be right; the text never has the password.
    """
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
    return Target(kind, tls, nodes, path, options, sentinel)


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


def tls_context(target: Target) -> ssl.SSLContext | None:
    """How TLS is spoken with the server; None: it is not.

    Raises:
        OSError: a certificate's file can't be read.
    """
    if not target.tls:
        return None
    options = target.options
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    wanted = options.get("ssl_cert_reqs", "required")
    context.check_hostname = wanted != "none" and options.get("ssl_check_hostname", True)
    context.verify_mode = _VERIFY.get(wanted, ssl.CERT_REQUIRED)
    return context
