"""What must be in the store before a worker serves: a safe server, keys, and the budgets of files and environment.

Runs in the supervisor, once per start; several supervisors at once write the same things.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from budget.codec import budget_from_spec
from budget.connect import ServerReport, check_server, close, connect
from budget.model import Budget
from budget.redis_store import RedisBudgetStore
from core.clock import Clock
from core.errors import ConfigError, Conflict
from core.key_codec import KEY_KIND, dump_key, load_key
from core.keys import ApiKey, KeyRole, digest_of, key_id_of, new_key_text
from core.scope import Scope
from spendgate.settings import Settings
from spendgate.sources import default_budget, load_budgets_yaml, sync

log = logging.getLogger("spendgate")

_QUICKSTART_NAMES = ("agent", "user", "session", "task", "team", "org", "tag")


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the start found and made.

    admin_key: its text, only when this start created it. agent_key: the key for first steps, if there is one.
    """

    report: ServerReport
    admin_key: str | None
    agent_key: str | None


async def prepare(settings: Settings, redis_url: str, clock: Clock, begin: Callable[[], Awaitable[None]]) -> Prepared:
    """Check the store and write what is missing. begin: sees that it has its books, before anything is written.

    Raises:
        ConfigError: the store can lose money, or a file of budgets breaks a rule.
        StoreUnavailable: it does not answer.
    """
    client = connect(redis_url)
    try:
        report = await check_server(client)
        if report.problems and not settings.allow_unsafe_store:
            problems = "; ".join(report.problems)
            raise ConfigError(f"the store can lose money: {problems} (SPENDGATE_ALLOW_UNSAFE_STORE=true starts anyway)")
        for problem in report.problems:
            log.error("the store can lose money: %s", problem)
        _check_waiting(settings, report, redis_url)
        await begin()
        store = RedisBudgetStore(client, namespace=settings.namespace)
        keys = await stored_keys(store)
        admin_key = await _admin_key(store, settings, clock, keys)
        agent_key = await _quickstart_key(store, settings, clock, keys)
        await _budgets(store, settings, clock)
        return Prepared(report, admin_key, agent_key)
    finally:
        await close(client)


def _check_waiting(settings: Settings, report: ServerReport, redis_url: str) -> None:
    """Whether the store can wait for whom the settings want it to wait."""
    if not (settings.wait_replicas or settings.wait_fsync):
        return
    if "+cluster://" in redis_url:
        raise ConfigError("SPENDGATE_WAIT_REPLICAS and SPENDGATE_WAIT_FSYNC work on a single primary, not on a cluster")
    major, minor = (int(n) for n in report.version.split(".")[:2])
    if settings.wait_fsync and (major, minor) < (7, 2):
        raise ConfigError(f"SPENDGATE_WAIT_FSYNC needs Redis or Valkey 7.2; the store is {report.version}")
    if report.replicas < settings.wait_replicas:
        log.error(
            "calls will be refused: SPENDGATE_WAIT_REPLICAS is %d and %d are connected",
            settings.wait_replicas,
            report.replicas,
        )


async def create_key(
    store: RedisBudgetStore,
    clock: Clock,
    *,
    name: str,
    role: KeyRole,
    scopes: tuple[Scope, ...] = (),
    may_name: tuple[Scope, ...] = (),
    source: str = "start",
) -> str:
    """Make a key and store its digest; its text."""
    key_id, text = new_key_text(role)
    key = ApiKey(key_id, name, role, digest_of(text), scopes, may_name, clock.now_ms(), source)
    await store.put(KEY_KIND, key_id, dump_key(key), expected=0)
    return text


async def stored_keys(store: RedisBudgetStore) -> list[ApiKey]:
    """All keys of the store."""
    _, changes = await store.changes_since(-1)
    return [load_key(c.text) for c in changes if c.kind == KEY_KIND and c.text is not None]


async def _admin_key(store: RedisBudgetStore, settings: Settings, clock: Clock, keys: list[ApiKey]) -> str | None:
    if settings.admin_key is None:
        if any(k.role is KeyRole.ADMIN for k in keys):
            return None
        return await create_key(store, clock, name="admin", role=KeyRole.ADMIN)
    for old in keys:  # a key that was replaced in the environment must stop working
        if old.source == "env" and old.digest != digest_of(settings.admin_key):
            await store.put(KEY_KIND, old.id, None)
    key_id = key_id_of(settings.admin_key)
    key = ApiKey(key_id, "admin", KeyRole.ADMIN, digest_of(settings.admin_key), (), (), clock.now_ms(), "env")
    if not any(k.id == key_id and k.digest == key.digest for k in keys):
        await store.put(KEY_KIND, key_id, dump_key(key))
    return None


async def _quickstart_key(store: RedisBudgetStore, settings: Settings, clock: Clock, keys: list[ApiKey]) -> str | None:
    """A key for first steps. Only its digest is in the store; its text is in the data folder of this machine, so
    that a second start can print a line that works.
    """
    path = settings.data_dir / "quickstart.key"
    if path.exists():
        text = path.read_text().strip()
        if any(k.digest == digest_of(text) for k in keys):
            return text
    if any(k.role is KeyRole.AGENT for k in keys) or settings.redis_url:
        return None
    text = await create_key(
        store,
        clock,
        name="quickstart",
        role=KeyRole.AGENT,
        scopes=(Scope("agent", "quickstart"),),
        may_name=tuple(Scope(t, "*") for t in _QUICKSTART_NAMES),
    )
    _write_private(path, text)
    return text


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")


async def _budgets(store: RedisBudgetStore, settings: Settings, clock: Clock) -> None:
    now_ms = clock.now_ms()
    default = default_budget(settings.budget_default_limit, settings.budget_soft_cap, settings.budget_hard_cap, now_ms)
    await _sync(store, [default], "env")
    if settings.budgets is None:
        return
    try:
        text = settings.budgets.read_text()
    except OSError as error:
        raise ConfigError(f"SPENDGATE_BUDGETS: {settings.budgets} can't be read: {error.strerror}") from None
    specs = load_budgets_yaml(text, source=str(settings.budgets))
    budgets = [budget_from_spec(s, budget_id=s.id or "", source="yaml", now_ms=now_ms) for s in specs]
    await _sync(store, budgets, "yaml")


async def _sync(store: RedisBudgetStore, budgets: list[Budget], source: str) -> None:
    try:
        await sync(store, budgets, source)
    except Conflict:  # another supervisor is starting too; what it wrote is what we want
        await sync(store, budgets, source)
