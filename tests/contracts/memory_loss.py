"""A store's life, its loss of memory, and what can be compared before and after."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

from budget.archive import Archive
from budget.model import AccountTerms, Basis, NextHold, Resolution, ResolveMode
from budget.rebuild import Rebuild
from budget.redis_store import RedisBudgetStore
from budget.texts import hold_text
from core.errors import SpendgateError
from core.period import Period
from tests.budget.builders import ask, fixed, metered, terms, wall_ms

KEEP_MS = 86_400_000
_END_MS = wall_ms() + 3_600_000
Photo = dict[bytes, tuple[int, bytes]]


def accounts() -> list[AccountTerms]:
    """Three accounts of one chain; one has a period that ends."""
    daily = Period("d1", 0, _END_MS)
    return [
        terms("bot", limit=20_000),
        terms("ml", limit=50_000, budget_id="t", period=daily),
        terms("me", limit=9_000),
    ]


async def keys_of(store: RedisBudgetStore) -> list[bytes]:
    """Every key of the store's namespace."""
    client: Any = store._client
    return sorted([k async for k in client.scan_iter(match=store.key("*"), count=1000)])


async def forget(store: RedisBudgetStore) -> None:
    """The store loses everything."""
    for key in await keys_of(store):
        await store._client.delete(key)


async def photograph(store: RedisBudgetStore) -> Photo:
    """All that the store has now."""
    client: Any = store._client
    return {k: (max(0, await client.pexpiretime(k)), await client.dump(k)) for k in await keys_of(store)}


async def go_back(store: RedisBudgetStore, photo: Photo) -> None:
    """The store has again what it had then, and nothing newer."""
    await forget(store)
    for key, (until_ms, dump) in photo.items():
        await store._client.restore(key, until_ms, dump, absttl=until_ms > 0)


async def books(store: RedisBudgetStore) -> dict[str, Any]:
    """Balances, states, limits, ends of periods, holds and documents: what a rebuild must bring back."""
    client: Any = store._client
    found: dict[str, Any] = {}
    for key in await keys_of(store):
        name = key.decode().removeprefix(store.key(""))
        if name.startswith("a:"):
            row = await client.hgetall(key)
            found[name] = {k.decode(): v.decode() for k, v in row.items()} | {"until": await client.pexpiretime(key)}
        elif name.startswith("hold:"):
            hold = hold_text(await client.get(key))
            found[name] = [hold.status, hold.amount, hold.cost, hold.accounts, hold.trued]
    found["index"] = await client.zrange(store.key("a"), 0, -1, withscores=True)
    found["leases"] = sorted(await client.zrange(store.key("leases"), 0, -1))
    found["documents"] = await client.hgetall(store.key("documents"))
    return found


async def live(store: RedisBudgetStore, rng: Random, steps: int, name: str = "h") -> None:
    """So many random steps: holds, settlements, voids, expiries, corrections, handing over, posts, documents."""
    open_holds: list[tuple[str, int]] = []
    ended: list[str] = []
    for number in range(steps):
        chain = accounts()
        hold_id, pick = f"{name}{number}", rng.random()
        if pick < 0.45 or not open_holds:
            lease_ms = 0 if rng.random() < 0.2 else 3_600_000
            amount = rng.randint(1, 400)
            candidates = (fixed(amount, "1-1"), metered(5, 2, 50, 5, "111"))[:: rng.choice((1, -1))]
            verdict = await store.reserve(
                ask(hold_id, chain, *candidates, lease_ms=lease_ms, version=await _version(store))
            )
            if hasattr(verdict, "amount_nano"):
                open_holds.append((hold_id, verdict.amount_nano))
            continue
        if pick < 0.5:
            await store.put("budget", rng.choice("ab"), None if rng.random() < 0.3 else hold_id.encode())
            continue
        if pick < 0.55:
            post = Resolution(hold_id, ResolveMode.POST, (chain[0].id,), 9, Basis.WEBHOOK, b"{}", terms=(chain[0],))
            await store.resolve(post)
            continue
        if pick < 0.7 and ended:
            mode = rng.choice((ResolveMode.TRUE_UP, ResolveMode.SETTLE, ResolveMode.VOID))
            await _end(store, rng.choice(ended), mode, rng.randint(0, 500))
            continue
        index = rng.randrange(len(open_holds))
        ending, amount = open_holds.pop(index)
        mode = rng.choice((ResolveMode.SETTLE, ResolveMode.SETTLE, ResolveMode.VOID, ResolveMode.EXPIRE))
        following = None
        if mode is ResolveMode.VOID and rng.random() < 0.5:
            following = NextHold(f"{ending}n", amount)
            open_holds.append((following.id, amount))
        await _end(store, ending, mode, rng.randint(0, amount * 2), following)
        ended.append(ending)


async def _version(store: RedisBudgetStore) -> int:
    return int(await store._client.get(store.key("version")) or 0)


async def _end(
    store: RedisBudgetStore, hold_id: str, mode: ResolveMode, cost: int, following: NextHold | None = None
) -> None:
    found = await store.find(hold_id)
    if found:
        lease_ms = 3_600_000 if following else 0
        await store.resolve(
            Resolution(
                hold_id, mode, found.account_ids, cost, Basis.EXACT, b"{}", next_hold=following, lease_ms=lease_ms
            )
        )


async def copy(store: RedisBudgetStore, archive: Archive) -> None:
    """The archive has all events."""
    found = await store.look()
    assert found.epoch
    archive.enter(found.epoch)
    while rows := await store.events(f"({archive.last.id}" if archive.last else "-", 100):
        archive.append(rows)


async def rebuild(store: RedisBudgetStore, archive: Archive, epoch: str, now_ms: Callable[[], int] = wall_ms) -> None:
    """Rebuild through a store of its own."""
    own = RedisBudgetStore(store._client, namespace=store.key("").split("{")[1].split("}")[0], keep_ms=KEEP_MS)
    await Rebuild(own, archive, KEEP_MS, 3_600_000, now_ms).run("a test", epoch)


async def opened(store: RedisBudgetStore) -> None:
    """Admit at once, instead of a moment later."""
    await store._client.hdel(store.key("epoch"), "opens")


async def fails(call: Callable[[], Awaitable[object]]) -> type[SpendgateError] | None:
    """The class of the error."""
    try:
        await call()
    except SpendgateError as error:
        return type(error)
    return None


def archive_in(folder: Path) -> Archive:
    """An archive of a test's own."""
    return Archive(folder / "events")
