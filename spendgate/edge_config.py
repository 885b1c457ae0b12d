"""Budgets from Vercel Edge Config: polled, and written into the shared documents (see `spendgate.sources`).

Failure policy: while it can't be read, or says what can't be a budget, the last good budgets stay in force.
"""

import asyncio
import logging
import random
import re
from dataclasses import dataclass, field

import aiohttp
import orjson
from yarl import URL

from budget.codec import BudgetSpec
from budget.ports import Documents
from core.clock import Clock
from core.errors import ConfigError, Conflict, StoreUnavailable
from spendgate.sources import budgets_from_items, budgets_of, sync

log = logging.getLogger("spendgate.sources")

_MAX_BODY_BYTES = 1 << 20
_VERCEL_HOST = "edge-config.vercel.com"


@dataclass
class EdgeConfigPoller:
    """Keeps the budgets of an Edge Config in the documents.

    url: a connection string (``https://edge-config.vercel.com/<id>?token=…`` or ``edge-config:id=…&token=…``), or
        the full address of ``…/items``.
    token: the read token, if it is not in the url. It is sent as a bearer token and never logged.
    interval_s: between two polls; after failures it doubles up to `max_interval_s`. Both are shortened by up to
        a fifth, at random, so that many workers do not ask at once.
    timeout_s: of one poll, from connecting to the last byte.
    """

    url: str
    documents: Documents
    clock: Clock
    token: str | None = None
    interval_s: float = 5.0
    max_interval_s: float = 60.0
    timeout_s: float = 5.0
    failures: int = field(default=0, init=False)
    _session: aiohttp.ClientSession | None = field(default=None, init=False)
    _etag: str | None = field(default=None, init=False)
    _good: list[BudgetSpec] | None = field(default=None, init=False)
    _version: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Raises `ConfigError` if the url is neither a connection string nor an address."""
        self._items_url, token = _items_url(self.url)
        self.token = self.token or token
        self._name = f"Edge Config {self._items_url.host}{self._items_url.path}"

    def __repr__(self) -> str:
        return f"EdgeConfigPoller({self._name})"  # the token stays out of logs

    async def run(self) -> None:
        """Poll until cancelled."""
        try:
            while True:
                await self.poll_once()
                await asyncio.sleep(self.next_delay_s())
        finally:
            await self.close()

    def next_delay_s(self) -> float:
        """Seconds until the next poll."""
        delay_s = min(self.max_interval_s, self.interval_s * 2.0 ** min(self.failures, 16))
        return delay_s * random.uniform(0.8, 1.0)

    async def poll_once(self) -> bool:
        """Ask once; True if budgets were written. A failure is logged, counted in `failures`, and changes nothing."""
        try:
            written = await self._poll()
        except (ConfigError, Conflict, StoreUnavailable) as error:
            reason = error.message
        except TimeoutError:
            reason = f"no complete answer within {self.timeout_s:g} s"
        except (aiohttp.ClientError, OSError) as error:
            reason = _reason(error)
        else:
            if self.failures:
                log.info("%s is readable again", self._name)
            self.failures = 0
            return written > 0
        self.failures += 1
        log.warning("%s: the last good budgets stay in force: %s", self._name, reason)
        return False

    async def close(self) -> None:
        """Close the connection."""
        if self._session:
            await self._session.close()
            self._session = None

    async def _poll(self) -> int:
        body, etag = await self._fetch()
        if body is not None:
            specs = budgets_from_items(_parse(body), self._name)
        elif self._good is not None and await self._documents_changed():
            specs = self._good  # a store that was emptied or restored gets them back
        else:
            return 0
        budgets = budgets_of(specs, source="edge", now_ms=self.clock.now_ms())
        written = await sync(self.documents, budgets, "edge")
        self._version, _ = await self.documents.changes_since(self._version)
        # Only now: had the store been away, "not modified" would hide these budgets from the next poll.
        self._good, self._etag = specs, etag
        if written:
            log.info("%s: %d budgets, %d changed", self._name, len(budgets), written)
        return written

    async def _documents_changed(self) -> bool:
        newest, _ = await self.documents.changes_since(self._version)
        return newest != self._version

    async def _fetch(self) -> tuple[bytes | None, str | None]:
        """(body, its ETag); the body is None if nothing was modified."""
        headers = {"Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self._etag:
            headers["If-None-Match"] = self._etag
        self._session = self._session or aiohttp.ClientSession()
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        # A redirect would carry the token to an address that nobody configured.
        async with self._session.get(
            self._items_url, headers=headers, timeout=timeout, allow_redirects=False
        ) as response:
            if response.status == 304 and self._etag:
                return None, self._etag
            if response.status != 200:
                raise ConfigError(f"it answered with status {response.status}")
            return await _bounded(response), response.headers.get("ETag")


def _items_url(text: str) -> tuple[URL, str | None]:
    """(address of the items, token) of a connection string.

    The forms are those of Vercel's SDK (vercel/storage, packages/edge-config, parse-connection-string.ts).
    """
    if text.startswith("edge-config:") and "://" not in text:
        query = URL.build(query_string=text.removeprefix("edge-config:")).query
        text = f"https://{_VERCEL_HOST}/{query.get('id', '')}?token={query.get('token', '')}"
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host or not re.search(r"[^/]", url.path):
        raise ConfigError("EDGE_CONFIG must look like https://edge-config.vercel.com/<id>?token=<token>")
    token = url.query.get("token")
    if url.host == _VERCEL_HOST:
        url = url.with_query(None)  # a bearer token is enough there, and addresses end up in logs
    if not url.path.endswith("/items"):
        url = url.with_path(url.path.rstrip("/") + "/items", keep_query=True)
    return url, token


def _parse(body: bytes) -> object:
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"its answer is not JSON: {error.msg}") from None
    return parsed


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise ConfigError(f"its answer is over {_MAX_BODY_BYTES} bytes")
    return bytes(body)


def _reason(error: Exception) -> str:
    """What failed, from what can't hold an address with a token."""
    detail = error.strerror if isinstance(error, OSError) else None
    return f"it can't be read ({type(error).__name__}{': ' + detail if detail else ''})"
