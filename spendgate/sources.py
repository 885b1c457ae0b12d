"""Budgets from outside the API: the environment, a YAML file, Vercel Edge Config.

They are written into the shared documents, so that every worker sees them, and each source owns what it wrote:
nothing here touches a budget of another source, and the API does not change one of these.

Failure policy: invalid content changes nothing. At the start it is a `ConfigError` that says where; while Edge
Config is polled it is a log line, and the budgets that are stored, the last good copy, serve on.
"""

import asyncio
import logging
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import aiohttp
import orjson
import yaml
from yarl import URL

from budget.codec import BUDGET_KIND, BudgetSpec, budget_from_spec, dump_budget, load_budget, parse_spec, spec_of
from budget.model import Budget
from budget.ports import Documents
from core.clock import Clock
from core.errors import ConfigError, Conflict, InvalidInput, StoreUnavailable
from dashboard.specs import budget_slug, checked_total, without_past

log = logging.getLogger("spendgate.sources")

_SYNC_TRIES = 5
_MAX_BODY_BYTES = 1 << 20
_VERCEL_HOST = "edge-config.vercel.com"
_ITEM_PREFIXES = ("budget_", "budget-")
_ENVIRONMENT_NAMES = {
    "limitUsd": "BUDGET_DEFAULT_LIMIT",
    "softCap": "BUDGET_SOFT_CAP",
    "hardCap": "BUDGET_HARD_CAP",
}


def default_budget(limit_usd: object, soft: object, hard: object, now_ms: int) -> Budget:
    """The daily budget of every agent, from the environment.

    limit_usd: dollars per day in UTC. soft, hard: fractions of the limit, such as 0.8 and 1.2.

    Raises:
        ConfigError: names the variable and the rule.
    """
    data = {"scopeType": "agent", "scopeKey": "*", "limitUsd": limit_usd, "softCap": soft, "hardCap": hard}
    try:
        spec = parse_spec(BudgetSpec, data)
        return budget_from_spec(spec, budget_id="default", source="env", now_ms=now_ms)
    except InvalidInput as error:
        raise ConfigError(f"{_ENVIRONMENT_NAMES.get(error.field, error.field)} {error.rule}") from None


def load_budgets_yaml(text: str, source: str) -> list[BudgetSpec]:
    """The budgets of a YAML file: ``budgets:``, a list of `BudgetSpec` in camelCase or snake_case.

    source: the file's name, for errors. An entry without id gets one from its scope and cadence.

    Raises:
        ConfigError: names the file, the entry, the field and the rule.
    """
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from None
    if not isinstance(data, Mapping) or not isinstance(data.get("budgets"), list):
        raise ConfigError(f"{source}: budgets must be a list")
    others = sorted(str(name) for name in data if name != "budgets")
    if others:
        raise ConfigError(f"{source}: {others[0]} is not known; the file holds budgets only")
    entries = [(f"budgets[{number}]", None, entry) for number, entry in enumerate(data["budgets"])]
    return _read_entries(entries, source=source, prefix="yaml")


def budgets_of(specs: Sequence[BudgetSpec], *, source: str, now_ms: int) -> list[Budget]:
    """Checked specs, each with its id, as the budgets of a source (``yaml`` or ``edge``)."""
    return [budget_from_spec(spec, budget_id=spec.id or "", source=source, now_ms=now_ms) for spec in specs]


def budgets_from_items(answer: object, source: str) -> list[BudgetSpec]:
    """The budgets of an Edge Config, from what its ``/items`` answers.

    Edge Config's own address answers an object of key and value; Vercel's management API a list of
    ``{"key", "value", ...}``. The item ``budgets`` is a list of specs, or an object of id and spec; an item named
    ``budget_<id>`` or ``budget-<id>`` is one spec.

    Raises:
        ConfigError: names the item, the field and the rule. No budget item at all is an error too, so that a wrong
            or emptied Edge Config does not lift every limit; ``"budgets": []`` says that there are none.
    """
    items = _items(answer, source)
    entries: list[tuple[str, str | None, object]] = []
    found = False
    for name, value in items.items():
        if name == "budgets":
            entries += _listed(value, source)
        elif name.startswith(_ITEM_PREFIXES):
            entries.append((name, name[len(_ITEM_PREFIXES[0]) :], value))
        else:
            continue
        found = True
    if not found:
        raise ConfigError(f"{source} has no item budgets and none named budget_<id>")
    return _read_entries(entries, source=source, prefix="edge")


async def sync(documents: Documents, budgets: Sequence[Budget], source: str) -> int:
    """Make the stored budgets of `source` be `budgets`; returns how many were written or deleted.

    Only what differs is written; top-ups, resets and the time of creation stay. Any number of workers may do this
    at once.

    Raises:
        ConfigError: an id belongs to another source; nothing was written.
        Conflict: others kept changing these budgets.
        StoreUnavailable: the store is away; what was written before stays, the next sync goes on.
    """
    written = 0
    for _ in range(_SYNC_TRIES):
        stored = await _stored(documents)
        _refuse_foreign(budgets, stored, source)
        try:
            for budget_id, text, revision in _differences(budgets, stored, source):
                await documents.put(BUDGET_KIND, budget_id, text, expected=revision)
                written += 1
            return written
        except Conflict:
            continue  # another worker was faster: what it wrote is read now
    raise Conflict(f"the budgets of {source} keep being changed by others")


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


def _read_entries(entries: Sequence[tuple[str, str | None, object]], *, source: str, prefix: str) -> list[BudgetSpec]:
    """Entries of (place, id if the place gives one, content), each checked as a whole; ids are unique."""
    specs: dict[str, BudgetSpec] = {}
    for place, given_id, entry in entries:
        try:
            spec = _read_entry(entry, given_id, prefix)
        except InvalidInput as error:
            raise ConfigError(f"{source}: {place}.{error.field} {error.rule}") from None
        budget_id = spec.id or ""
        if budget_id in specs:
            raise ConfigError(f"{source}: {place}.id {budget_id} is taken by an earlier entry; give each its own")
        specs[budget_id] = spec
    return list(specs.values())


def _read_entry(entry: object, given_id: str | None, prefix: str) -> BudgetSpec:
    """A spec with its id, or InvalidInput."""
    if given_id is not None and isinstance(entry, Mapping):
        entry = {"id": given_id, **entry}
    spec = parse_spec(BudgetSpec, entry)
    checked = budget_from_spec(spec, budget_id="", source=prefix, now_ms=0)
    if spec.id:
        return spec
    return spec.model_copy(update={"id": f"{prefix}-{budget_slug(checked.scope, checked.cadence)}"})


def _items(answer: object, source: str) -> dict[str, object]:
    if isinstance(answer, Mapping):
        return {str(name): value for name, value in answer.items()}
    if isinstance(answer, list) and all(isinstance(i, Mapping) and "key" in i and "value" in i for i in answer):
        return {str(item["key"]): item["value"] for item in answer}
    raise ConfigError(f"{source} must be an object of items")


def _listed(value: object, source: str) -> list[tuple[str, str | None, object]]:
    if isinstance(value, list):
        return [(f"budgets[{number}]", None, entry) for number, entry in enumerate(value)]
    if isinstance(value, Mapping):
        return [(f"budgets.{budget_id}", str(budget_id), entry) for budget_id, entry in value.items()]
    raise ConfigError(f"{source}: budgets must be a list of budgets, or an object of id and budget")


async def _stored(documents: Documents) -> dict[str, Budget]:
    _, changes = await documents.changes_since(0)
    return {
        c.id: load_budget(c.text, revision=c.version) for c in changes if c.kind == BUDGET_KIND and c.text is not None
    }


def _refuse_foreign(budgets: Sequence[Budget], stored: Mapping[str, Budget], source: str) -> None:
    for budget in budgets:
        owner = stored[budget.id].source if budget.id in stored else source
        if owner != source:
            raise ConfigError(f"the budget {budget.id} of {source} exists already and belongs to {owner}; rename one")


def _differences(
    budgets: Sequence[Budget], stored: Mapping[str, Budget], source: str
) -> list[tuple[str, bytes | None, int]]:
    """(id, new text or None to delete, revision that is there) of what has to be written."""
    writes: list[tuple[str, bytes | None, int]] = []
    for budget in budgets:
        present = stored.get(budget.id)
        if present is None:
            writes.append((budget.id, dump_budget(budget), 0))
        elif spec_of(present) != spec_of(budget):
            writes.append((budget.id, dump_budget(_merged(present, budget)), present.revision))
    wanted = {budget.id for budget in budgets}
    gone = [b for b in stored.values() if b.source == source and b.id not in wanted]
    return writes + [(b.id, None, b.revision) for b in gone]


def _merged(present: Budget, wanted: Budget) -> Budget:
    kept = replace(wanted, top_ups=present.top_ups, resets=present.resets, created_ms=present.created_ms)
    try:
        return checked_total(without_past(kept, wanted.updated_ms), f"limitUsd of {wanted.id}")
    except InvalidInput as error:
        raise ConfigError(error.message) from None


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
