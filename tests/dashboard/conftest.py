"""The whole surface over real HTTP: a uvicorn on a free port, the memory store behind it."""

import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import uvicorn
from fastapi import FastAPI
from yarl import URL

from budget.book import BudgetBook
from budget.codec import BUDGET_KIND, dump_budget, load_budget
from budget.memory_store import MemoryBudgetStore
from budget.model import Budget, Candidate, Hold, ReserveRequest, Resolution, ResolveMode
from core.ids import RandomIds
from core.key_codec import KEY_KIND, dump_key, load_key
from core.keys import ApiKey, KeyRing, KeyRole, digest_of, new_key_text
from core.scope import Scope
from dashboard.app import Deps, create_router, install_errors
from dashboard.pages import router as create_pages
from ledger.duckdb_store import DuckDbLedger
from routing.model import Endpoint, Model, ModelRole, Routes
from telemetry.overrides import PRICE_KIND, load_override
from telemetry.prices import PriceBook, prices_from

NOON_MS = 1_795_435_200_000  # 2026-11-23T12:00:00Z, a Monday


@dataclass
class StillClock:
    """A clock that tests move."""

    at_ms: int = NOON_MS

    def now_ms(self) -> int:
        return self.at_ms

    def monotonic_s(self) -> float:
        return self.at_ms / 1000


@dataclass
class Answer:
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return orjson.loads(self.text)

    @property
    def error(self) -> Any:
        return self.json["error"]


@dataclass
class Api:
    """A client with an admin key, and what stands behind the surface."""

    deps: Deps
    store: MemoryBudgetStore
    clock: StillClock
    admin_text: str = ""
    base: str = ""
    session: aiohttp.ClientSession = field(init=False)

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        sent = {"Authorization": f"Bearer {self.admin_text}"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))
        url = URL(self.base + path, encoded=True)
        async with self.session.request(method, url, data=data, headers=sent) as response:
            return Answer(response.status, response.headers, await response.text())

    async def get(self, path: str, **headers: str) -> Answer:
        return await self.call("GET", path, **headers)

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        return await self.call("POST", path, body, **headers)

    async def add_key(self, role: KeyRole, source: str = "api") -> tuple[str, str]:
        """(id, text) of a stored key."""
        key_id, text = new_key_text(role)
        key = ApiKey(key_id, "test", role, digest_of(text), source=source)
        await self.store.put(KEY_KIND, key_id, dump_key(key))
        await self.deps.refresh()
        return key_id, text

    async def add_budget(self, budget: Budget) -> Budget:
        await self.store.put(BUDGET_KIND, budget.id, dump_budget(budget))
        await self.deps.refresh()
        return self.deps.book.get(budget.id)

    async def spend(self, scope: str, cost_nano: int) -> None:
        """Post spend on every account of a scope."""
        terms = self.deps.book.accounts([Scope(*scope.split(":", 1))], self.clock.now_ms())
        ids = tuple(t.id for t in terms)
        hold_id = self.deps.ids.new("hld")
        await self.store.resolve(Resolution(hold_id, ResolveMode.POST, ids, cost_nano, terms=terms))

    async def hold(self, scope: str, amount_nano: int) -> None:
        """Hold money on every account of a scope."""
        terms = self.deps.book.accounts([Scope(*scope.split(":", 1))], self.clock.now_ms())
        candidate = Candidate("m", amount_nano, 0, 1, 1, "1" * len(terms))
        request = ReserveRequest(
            self.deps.ids.new("hld"), "w", self.clock.now_ms(), self.deps.book.version, 60_000, terms, (candidate,)
        )
        assert isinstance(await self.store.reserve(request), Hold)


def routes() -> Routes:
    models = [
        Model("dbrx", "main", "databricks-dbrx", ModelRole.PRIMARY, 10, aliases=("big",)),
        Model("mixtral", "main", "databricks-mixtral", ModelRole.FALLBACK, 20),
        Model("mystery", "main", "mystery", ModelRole.OTHER, 30),
    ]
    return Routes(models, [Endpoint("main", "databricks", "http://127.0.0.1:1")])


def prices() -> PriceBook:
    rows = [
        {"model": "dbrx", "usd_per_million_tokens": {"input": "0.75", "output": "2.25"}},
        {"model": "mixtral", "usd_per_million_tokens": {"input": "0.0000015", "output": 1}},
    ]
    common = {"effective_from": "2024-01-01", "source": "a price sheet"}
    return PriceBook(prices_from([row | common for row in rows], source="test"))


def make_deps(store: MemoryBudgetStore, clock: StillClock) -> Deps:
    book, keys, price_book = BudgetBook(), KeyRing(), prices()

    async def refresh() -> None:
        version, changes = await store.changes_since(book.version)
        for change in changes:
            if change.kind == KEY_KIND:
                keys.put(load_key(change.text)) if change.text else keys.remove(change.id)
            elif change.kind == PRICE_KIND:
                if change.text:
                    price_book.put(load_override(change.text, revision=change.version))
            elif change.text is None:
                book.remove(change.id)
            else:
                book.put(load_budget(change.text, revision=change.version))
        book.version = version

    return Deps(store, store, book, keys, routes(), price_book, clock, RandomIds(clock), refresh)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[DuckDbLedger]:
    """An empty ledger."""
    opened = DuckDbLedger(tmp_path / "main.duckdb", new_id="ldg_1")
    yield opened
    opened.close()


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    clock = StillClock()
    store = MemoryBudgetStore(clock.now_ms)
    deps = make_deps(store, clock)
    app = FastAPI()
    install_errors(app)
    app.include_router(create_router(deps))
    app.include_router(create_pages(deps))
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    # asyncio turns Nagle's algorithm off only for sockets that say they are TCP; else each answer takes 40 ms
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        await server.startup(sockets=[listener])  # without `serve`, whose loop would add 0.1 s to each test
        found = Api(deps, store, clock, base=f"http://127.0.0.1:{listener.getsockname()[1]}")
        _, found.admin_text = await found.add_key(KeyRole.ADMIN)
        async with aiohttp.ClientSession() as found.session:
            yield found
        await server.shutdown(sockets=[listener])
