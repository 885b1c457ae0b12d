"""Databricks' usage table, read from the simulated workspace over real HTTP."""

import asyncio
import time
from collections.abc import Iterator

import aiohttp
import pytest

from collectors.databricks_usage import DatabricksUsage
from collectors.errors import UsageUnavailable
from ledger.ports import Interval
from ledger.reconcile import ProviderCall
from tests.support.simulated import Simulated, running_simulator

ALL_TIME = Interval(0, 2**43)
CALL = "/serving-endpoints/databricks-dbrx-instruct/invocations"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulated]:
    with running_simulator() as simulated:
        yield simulated


@pytest.fixture(scope="module")
def made(simulator: Simulated) -> list[str]:
    """Ids of 1,203 calls: two whole chunks of a result, and a part of one."""
    ids = [f"hld_{number:032x}" for number in range(1203)]
    asyncio.run(call(simulator, ids))
    return ids


async def call(simulator: Simulated, ids: list[str]) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer t"}) as session:
        for number, attempt_id in enumerate(ids):
            body = {"messages": [{"role": "user", "content": "word"}], "client_request_id": attempt_id}
            answered = {"X-Simulate-Output-Tokens": str(number % 9 + 1)}
            async with session.post(simulator.base_url + CALL, json=body, headers=answered) as answer:
                assert answer.status == 200


def source(simulator: Simulated, rows: int = 50_000) -> DatabricksUsage:
    return DatabricksUsage(simulator.base_url, "t", "wh-1", ask_again_s=0.01, rows=rows)


async def read(usage: DatabricksUsage, interval: Interval = ALL_TIME) -> list[ProviderCall]:
    async with usage:
        return [call async for call in usage.calls(interval)]


@pytest.mark.parametrize("rows", [50_000, 700, 601, 401, 100, 1203, 1202])
async def test_every_call_once_in_pages_and_chunks(simulator: Simulated, made: list[str], rows: int):
    found = await read(source(simulator, rows))
    assert sorted(call.attempt_id for call in found) == made
    assert [call.at_ms for call in found] == sorted(call.at_ms for call in found)
    outputs = {call.attempt_id: call.output_tokens for call in found}
    assert outputs == {attempt_id: number % 9 + 1 for number, attempt_id in enumerate(made)}
    assert all(call.accepted and call.input_tokens > 0 and call.cost_nano is None for call in found)


async def test_only_of_the_interval(simulator: Simulated, made: list[str]):
    everything = await read(source(simulator))
    start_ms, end_ms = everything[300].at_ms, everything[900].at_ms
    expected = [call for call in everything if start_ms <= call.at_ms < end_ms]
    assert await read(source(simulator, 150), Interval(start_ms, end_ms)) == expected != []
    now_ms = time.time_ns() // 1_000_000
    assert await read(source(simulator), Interval(now_ms + 1000, now_ms + 2000)) == []


async def test_what_fails_is_told_in_databricks_words(simulator: Simulated, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("collectors.databricks_usage._STATEMENT", "SELECT 1 FROM system.other")
    with pytest.raises(UsageUnavailable, match="TABLE_OR_VIEW_NOT_FOUND"):
        await read(source(simulator))


async def test_a_token_that_is_not_known(simulator: Simulated):
    with pytest.raises(UsageUnavailable, match="401"):
        await read(DatabricksUsage(simulator.base_url, "", "wh-1"))


async def test_a_workspace_that_does_not_answer():
    with pytest.raises(UsageUnavailable, match="can't be asked"):
        await read(DatabricksUsage("http://127.0.0.1:9", "t", "wh-1"))


async def test_a_statement_that_takes_too_long(simulator: Simulated):
    usage = DatabricksUsage(simulator.base_url, "t", "wh-1", timeout_s=0.05, ask_again_s=30.0)
    with pytest.raises(UsageUnavailable, match="did not finish"):
        await read(usage)
