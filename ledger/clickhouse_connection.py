"""A ClickHouse server over HTTP, as the ledger uses it.

Failure policy: every call has a time limit, at the server too, so that nothing goes on there long after it was given
up here. What can't be reached or is refused is `LedgerUnavailable`, without credentials in its text.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import clickhouse_connect
import orjson
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError

from core.errors import ConfigError
from core.values import value
from ledger.errors import LedgerUnavailable

_PORTS = {"clickhouse": 8123, "clickhouses": 8443}
_TLS_OPTIONS = ("ca_cert", "client_cert", "client_cert_key")
#: Null is no value of a column that must have one, a time may be written as ISO 8601, an insert is done when it is
#: answered, and what one replica took in another one shows.
_SETTINGS = {
    "input_format_null_as_default": 0,
    "date_time_input_format": "best_effort",
    "async_insert": 0,
    "select_sequential_consistency": 1,
}


@value
class Address:
    """Where the server is. tls: files by `_TLS_OPTIONS`."""

    host: str
    port: int
    secure: bool
    user: str
    password: str
    database: str
    tls: dict[str, str]

    @property
    def shown(self) -> str:
        """For people: without credentials."""
        return f"{self.host}:{self.port}/{self.database}"


def address_of(url: str) -> Address:
    """``clickhouse://user:password@host:8123/database``; ``clickhouses://``: with TLS, port 8443 unless named, and
    ``?ca_cert=<file>``, ``client_cert``, ``client_cert_key`` if needed.

    Raises:
        ConfigError: it is not such a URL.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except (ValueError, KeyError):
        raise ConfigError("the ledger's URL is not clickhouse://user:password@host:port/database") from None
    database = parts.path.strip("/")
    secure = parts.scheme == "clickhouses"
    unknown = set(options) - set(_TLS_OPTIONS if secure else ())
    if not parts.hostname or not database or "/" in database or unknown:
        named = f"; unknown: {', '.join(sorted(unknown))}" if unknown else ""
        raise ConfigError(f"the ledger's URL must name a host and a database, /database{named}")
    user, password = unquote(parts.username or "default"), unquote(parts.password or "")
    tls = {name: found[-1] for name, found in options.items()}
    return Address(parts.hostname, port, secure, user, password, unquote(database), tls)


class Connection:
    """Queries and inserts. May be used by several threads.

    timeout_s: of any call. Raises `LedgerUnavailable` from everywhere if the server can't be reached or refuses.
    """

    def __init__(self, address: Address, timeout_s: int = 60) -> None:
        self._shown = address.shown
        self._closed = False
        with self._available():
            self._client: Client = clickhouse_connect.get_client(
                host=address.host,
                port=address.port,
                interface="https" if address.secure else "http",
                username=address.user,
                password=address.password,
                database=address.database,
                connect_timeout=min(5, timeout_s),
                send_receive_timeout=timeout_s,
                autogenerate_session_id=False,  # a session serves one thread
                form_encode_query_params=True,  # a list of ids is too long for a URL
                dedicated_pool=True,
                settings=_SETTINGS | {"max_execution_time": max(1, timeout_s - 5)},
                ca_cert=address.tls.get("ca_cert"),
                client_cert=address.tls.get("client_cert"),
                client_cert_key=address.tls.get("client_cert_key"),
            )

    @property
    def version(self) -> str:
        """The server's."""
        return str(self._client.server_version)

    def rows(self, query: str, parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """A query's rows."""
        with self._available():
            return list(self._client.query(query, parameters=dict(parameters or {})).result_rows)

    def run(self, statement: str) -> None:
        """A statement without an answer."""
        with self._available():
            self._client.command(statement)

    def insert(self, table: str, rows: Iterable[bytes]) -> None:
        """Rows as JSON objects into a table."""
        lines = b"\n".join(rows)
        if lines:
            with self._available():
                self._client.raw_insert(table, insert_block=lines, fmt="JSONEachRow")

    def close(self) -> None:
        """Let go of the connections."""
        self._closed = True
        self._client.close()

    @contextlib.contextmanager
    def _available(self) -> Iterator[None]:
        if self._closed:
            raise LedgerUnavailable(f"the ledger at {self._shown} was closed")
        try:
            yield
        except (ClickHouseError, OSError) as error:
            raise LedgerUnavailable(f"the ledger at {self._shown} can't be used: {error}") from error


def with_columns(row: Any, **columns: int) -> bytes:
    """A row as a JSON object, with further columns."""
    more = b"".join(b',"%b":%d' % (name.encode(), number) for name, number in columns.items())
    return orjson.dumps(row)[:-1] + more + b"}"
