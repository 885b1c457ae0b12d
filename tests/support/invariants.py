"""The accounting truths, on the live state of a running gateway."""

import asyncio
import json
import time

from budget.connect import connect
from budget.redis_store import RedisBudgetStore
from budget.verify import verify
from tests.support.gateway import RunningGateway

Events = list[dict[str, str]]
_SETTLED_S = 10.0
_MOMENT_S = 0.2
_PAGE = 2_000  # all at once takes longer than a busy store may


def events_of(gateway: RunningGateway) -> Events:
    """Money, states and documents, oldest first; `detail` parsed into `request_id`, `outcome`, … beside the fields."""
    events = asyncio.run(_on_store(gateway, _events))
    out: Events = []
    for _, event in events:
        if event["type"] in ("hold", "terms"):
            continue
        detail: dict[str, object] = json.loads(event.get("detail") or "{}")
        out.append({k: v for k, v in detail.items() if isinstance(v, str)} | event)
    return out


async def _events(store: RedisBudgetStore) -> list[tuple[str, dict[str, str]]]:
    """What was just answered has a moment to be settled."""
    deadline_s = time.monotonic() + _MOMENT_S
    while await store.link.command("ZCARD", store.key("leases")) and time.monotonic() < deadline_s:
        await asyncio.sleep(0.01)
    events: list[tuple[str, dict[str, str]]] = []
    page = await store.events("-", _PAGE)
    while page:
        events += page
        page = await store.events(f"({page[-1][0]}", _PAGE)
    return events


def assert_books_are_right(gateway: RunningGateway, *, open_holds: int = 0) -> Events:
    """No drift, and this many open holds, at least soon: an answer does not wait for its settlement. The events."""
    deadline_s = time.monotonic() + _SETTLED_S
    while True:
        result = asyncio.run(_on_store(gateway, verify))
        assert result.drift == []
        if result.open_holds == open_holds or time.monotonic() > deadline_s:
            break
        time.sleep(0.02)
    assert result.open_holds == open_holds
    return events_of(gateway)


async def _on_store(gateway: RunningGateway, work):
    store = RedisBudgetStore(connect(gateway.store_url()))
    try:
        return await work(store)
    finally:
        await store.close()
