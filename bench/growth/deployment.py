"""A gateway of a given size: so many budgets, keys and open holds, written by the store's own API, one worker."""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from bench.speed.contestant import MAX_TOKENS, MODEL, PROMPT
from bench.speed.machine import Cores, pin
from bench.speed.tools import Upstream, http_request
from budget.codec import BUDGET_KIND, dump_budget, load_budget
from budget.connect import connect
from budget.model import Budget, Candidate, Policy, ReserveRequest
from budget.policy import account_terms
from budget.redis_store import RedisBudgetStore
from core.clock import SystemClock
from core.key_codec import KEY_KIND, dump_key
from core.keys import ApiKey, KeyRole, digest_of
from core.scope import Scope
from tests.support.gateway import RunningGateway, running_gateway

#: A scope type for each place of a chain; the first is the caller's.
CHAIN_TYPES = ("agent", "session", "task", "user", "team", "org")

_HUGE_USD = "1000000"
_HUGE_NANO = 10**15
_ROUTES = f"""\
endpoints:
  upstream: {{kind: openai, base_url: "${{BENCH_UPSTREAM_URL}}/v1", api_key: none, max_connections: 65536}}
models:
  - {{name: {MODEL}, endpoint: upstream, role: primary, template_tokens: 0,
     default_max_tokens: {MAX_TOKENS}, max_output_tokens: 4096}}
prices:
  - model: {MODEL}
    effective_from: 2026-01-01
    source: the benchmark
    usd_per_million_tokens: {{input: "0.50", output: "1.50"}}
"""
_AT_ONCE = 500
_COPIED_S = 120.0


@dataclass(frozen=True, slots=True)
class Size:
    """How large a deployment is.

    agents: exact budgets for agents `a-0`, `a-1`, …; there is one for all agents, ``agent:*``, in any case.
    keys: of agents. holds: that others hold open on the account of `a-0`.
    """

    agents: int = 0
    keys: int = 1
    holds: int = 0


@dataclass(frozen=True, slots=True)
class Deployment:
    """A gateway of this size that runs. keys: texts of its agent keys."""

    size: Size
    gateway: RunningGateway
    keys: list[str]
    worker: int
    store: int

    @property
    def address(self) -> str:
        """Host and port."""
        return self.gateway.url.removeprefix("http://")


def settings(upstream: Upstream, folder: Path) -> dict[str, str]:
    """The environment of a gateway in front of this upstream; its books are not verified meanwhile."""
    routes = folder / "routes.yaml"
    routes.write_text(_ROUTES)
    return {
        "DATABRICKS_BASE_URL": upstream.url,  # so that no simulator is started
        "DATABRICKS_API_KEY": "none",
        "BENCH_UPSTREAM_URL": upstream.url,
        "SPENDGATE_ROUTES": str(routes),
        "SPENDGATE_WORKERS": "1",
        "SPENDGATE_VERIFY_EVERY_S": "0",
        "BUDGET_DEFAULT_LIMIT": _HUGE_USD,
    }


@contextmanager
def deployed(size: Size, upstream: Upstream, cores: Cores) -> Iterator[Deployment]:
    """A deployment of this size, filled, its worker alone on its core."""
    with tempfile.TemporaryDirectory(prefix="sg-") as name:
        folder = Path(name)
        with running_gateway(folder, **settings(upstream, folder)) as gateway:
            keys = fill(gateway, size)
            (worker,), store = gateway.worker_pids(), gateway.store_pid()
            pin([worker], cores.gateway)
            pin([store, gateway.process.pid], cores.upstream)
            yield Deployment(size, gateway, keys, worker, store)


def fill(gateway: RunningGateway, size: Size) -> list[str]:
    """Write the budgets, keys and holds; return once the worker knows them and the copy of the events is complete."""
    keys = [f"sg_agent_{number:012d}_{'k' * 64}" for number in range(size.keys)]
    asyncio.run(_fill(gateway, size, keys))
    body = {"prompt": "x", "scopeType": "agent", "scopeKey": "a-0"}
    answer = gateway.request("POST", "/agent/chat", body, key=keys[-1])
    assert answer.status == 200, answer.body  # it was held under the newest budgets, so the worker has read them
    return keys


async def _fill(gateway: RunningGateway, size: Size, keys: list[str]) -> None:
    folder = Path(gateway.environment["SPENDGATE_DATA_DIR"]) / "valkey"
    store = RedisBudgetStore(connect(f"unix://{folder / 'valkey.sock'}?socket_timeout=60"))
    now_ms = SystemClock().now_ms()
    try:
        scopes = [Scope(kind, "all") for kind in CHAIN_TYPES[1:]]
        scopes += [Scope("agent", f"a-{number}") for number in range(size.agents)]
        budgets = [_budget(f"b{number}", scope, now_ms) for number, scope in enumerate(scopes)]
        await _all(store.put(BUDGET_KIND, budget.id, dump_budget(budget)) for budget in budgets)
        names = tuple(Scope(kind, "*") for kind in CHAIN_TYPES)
        made = [ApiKey(key.split("_")[2], "bench", KeyRole.AGENT, digest_of(key), (), names) for key in keys]
        await _all(store.put(KEY_KIND, key.id, dump_key(key)) for key in made)
        await _hold(store, size.holds, now_ms)
        await _copied(store)
    finally:
        await store.close()


def _budget(budget_id: str, scope: Scope, now_ms: int) -> Budget:
    policy = Policy(hard_cap=Decimal(1))
    return Budget(budget_id, scope, _HUGE_NANO, policy=policy, created_ms=now_ms, updated_ms=now_ms)


async def _hold(store: RedisBudgetStore, count: int, now_ms: int) -> None:
    """Holds of a worker elsewhere, on the account that all agents without a budget of their own have."""
    if not count:
        return
    version, changes = await store.changes_since(-1)
    found = next(c for c in changes if c.kind == BUDGET_KIND and c.text and b'"scopeKey":"*"' in c.text)
    terms = account_terms(load_budget(found.text or b"", revision=found.version), Scope("agent", "a-0"), now_ms, 1)
    candidate = Candidate("bench-model", 1000, 0, 1, 1, "1")
    first = ReserveRequest("", "elsewhere", now_ms, version, 3_600_000, (terms,), (candidate,), b"{}")
    await _all(
        store.reserve(replace(first, hold_id=f"req_open{number}", now_ms=SystemClock().now_ms()))
        for number in range(count)
    )


async def _all(work: Iterable[Any]) -> None:
    """All of it, so many at once."""
    work = iter(work)
    while some := list(itertools.islice(work, _AT_ONCE)):
        await asyncio.gather(*some)


async def _copied(store: RedisBudgetStore) -> None:
    """Wait until the supervisor has copied every event, so that it does not do so while something is measured."""
    deadline_s = time.monotonic() + _COPIED_S
    while True:
        found = await store.look()
        if found.archived >= found.sequence:
            return
        assert time.monotonic() < deadline_s, "the copy of the events does not catch up"
        await asyncio.sleep(0.2)


def calls(
    deployment: Deployment,
    agents: int = 1,
    chain: int = 1,
    *,
    first: int = 0,
    count: int | None = None,
    stream: bool = False,
) -> list[bytes]:
    """Calls as bytes, from the `first` on: agents and keys in turn, each call charged to so many scopes."""
    wide = "".join(f", {kind}:all" for kind in CHAIN_TYPES[1:chain])
    body: dict[str, object] = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}]}
    body |= {"max_tokens": MAX_TOKENS} | ({"stream": True} if stream else {})
    keys, out = deployment.keys, []
    for number in range(first, first + (count or max(agents, len(keys)))):
        head = {
            "Authorization": f"Bearer {keys[number % len(keys)]}",
            "X-Budget-Scopes": f"agent:a-{number % agents}{wide}",
        }
        out.append(http_request(deployment.address, "/v1/chat/completions", head, body))
    return out
