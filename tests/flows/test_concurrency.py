"""A crowd on one budget, through four worker processes: what fits goes through, nothing more, and the books are the
upstream's bill."""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal

import aiohttp
import pytest
import redis

from tests.support.bill import bill_nano
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.invariants import assert_books_are_right
from tests.support.simulated import Simulated, running_simulator

MODEL = "databricks-dbrx-instruct"
CROWD = 500
AFFORDABLE = 50


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        simulated.change_model(MODEL, latency_ms=400)
        yield simulated


@pytest.fixture(scope="module")
def gateway(simulator: Simulated) -> Iterator[RunningGateway]:
    upstream = {"DATABRICKS_BASE_URL": simulator.base_url, "DATABRICKS_API_KEY": "x"}
    with running_gateway(SPENDGATE_WORKERS="4", **upstream) as running:
        yield running


def make_budget(gateway: RunningGateway, agent: str) -> tuple[dict[str, object], int]:
    """A budget that affords `AFFORDABLE` ceilings of the request, which is returned with it."""
    body = {"prompt": "Hello there", "scopeType": "agent", "scopeKey": agent, "maxTokens": 100}
    fixed = {"allowDowngrade": False, "allowSmallerMaxTokens": False, "hardCap": 1, "cadence": "total"}
    budget = gateway.put_budget(scopeType="agent", scopeKey=agent, limitUsd="0.000001", **fixed)
    refused = gateway.request("POST", "/agent/chat", body)
    ceiling_nano = int(Decimal(refused.json["error"]["neededUsd"]) * 10**9)
    limit = Decimal(ceiling_nano * AFFORDABLE) / 10**9
    changed = gateway.request("PATCH", f"/api/budgets/{budget['id']}", {"limitUsd": str(limit)}, key="admin")
    assert changed.status == 200
    return body, ceiling_nano


async def send_all(gateway: RunningGateway, body: dict[str, object], *, retry_held: bool) -> list[tuple[int, str, str]]:
    """(status, code, cost) of each call, all at once; a held one is sent again, as SDKs do, if asked."""
    headers = {"Authorization": f"Bearer {gateway.agent_key}"}

    async def one(session: aiohttp.ClientSession) -> tuple[int, str, str]:
        while True:
            async with session.post(f"{gateway.url}/agent/chat", json=body, headers=headers) as answer:
                data = await answer.json(loads=lambda text: json.loads(text, parse_float=str))
                code = data.get("error", {}).get("code", "")
                if not (retry_held and code == "budget_held"):
                    return answer.status, code, data.get("cost", "0")
            await asyncio.sleep(0.05)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return await asyncio.gather(*[one(session) for _ in range(CROWD)])


def watch(gateway: RunningGateway, account: str, end: threading.Event) -> list[tuple[int, int]]:
    """Look at the account until `end`, from a thread, because the crowd keeps the loop busy: (spent, held)."""
    seen: list[tuple[int, int]] = []
    with redis.Redis.from_url(gateway.store_url()) as client:
        while not end.is_set():
            spent, held = client.hmget(f"sg:{{main}}:a:{account}", "spent", "held")
            seen.append((int(spent or 0), int(held or 0)))
            time.sleep(0.001)
    return seen


async def run_crowd(gateway: RunningGateway, body: dict[str, object], account: str, *, retry_held: bool):
    end = threading.Event()
    watching = asyncio.create_task(asyncio.to_thread(watch, gateway, account, end))
    try:
        answers = await send_all(gateway, body, retry_held=retry_held)
    finally:
        end.set()
        seen = await watching
    return answers, seen


async def test_all_at_once_exactly_as_many_are_admitted_as_fit(gateway: RunningGateway, simulator: Simulated) -> None:
    body, ceiling_nano = await asyncio.to_thread(make_budget, gateway, "at-once")
    account = "agent-at-once-total:total:at-once"
    # Longer than a busy machine takes to let the whole crowd in: who came after the first answer would find room.
    await asyncio.to_thread(simulator.change_model, MODEL, latency_ms=4000)
    answers, seen = await run_crowd(gateway, body, account, retry_held=False)
    await asyncio.to_thread(simulator.change_model, MODEL, latency_ms=400)
    assert Counter((status, code) for status, code, _ in answers) == {
        (200, ""): AFFORDABLE,
        (429, "budget_held"): CROWD - AFFORDABLE,
    }
    cap_nano = ceiling_nano * AFFORDABLE
    assert max(spent + held for spent, held in seen) == cap_nano, "it was full, and never over"
    billed = bill_nano(simulator.bill(recent=10_000), agent="at-once")
    costs = sum(int(Decimal(cost) * 10**9) for _, _, cost in answers)
    booked = await asyncio.to_thread(gateway.spend, "at-once")
    assert billed == costs == round(booked["spent"] * 10**9)
    await asyncio.to_thread(assert_books_are_right, gateway)


async def test_a_crowd_that_comes_again_uses_the_budget_up_and_no_more(
    gateway: RunningGateway, simulator: Simulated
) -> None:
    simulator.change_model(MODEL, latency_ms=20)
    body, ceiling_nano = await asyncio.to_thread(make_budget, gateway, "again")
    account = "agent-again-total:total:again"
    answers, seen = await run_crowd(gateway, body, account, retry_held=True)
    statuses = Counter(status for status, _, _ in answers)
    assert set(statuses) == {200, 402} and statuses[200] >= AFFORDABLE
    cap_nano = ceiling_nano * AFFORDABLE
    assert max(spent + held for spent, held in seen) <= cap_nano
    billed = bill_nano(simulator.bill(recent=10_000), agent="again")
    booked = await asyncio.to_thread(gateway.spend, "again")
    assert billed == round(booked["spent"] * 10**9)
    assert cap_nano - ceiling_nano < billed <= cap_nano, "no call that fitted was refused for good"
    await asyncio.to_thread(assert_books_are_right, gateway)
