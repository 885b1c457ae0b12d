"""The bill of each way a call can end, over real HTTP."""

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest

from tests.support.simulated import Simulated, running_simulator

DBRX = "databricks-dbrx-instruct"
CALL = f"/serving-endpoints/{DBRX}/invocations"
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "word"}],
    "client_request_id": "hld_1",
    "usage_context": {"scope": "agent:a"},
}
PROMPT = 5
ANSWER = 40
LENGTH = {"X-Simulate-Output-Tokens": str(ANSWER)}
STREAM = {**BODY, "stream": True, "stream_options": {"include_usage": True}}


def billed(sim: Simulated) -> tuple[int, int, int, int]:
    total = sim.bill()["models"].get(DBRX, {})
    names = ("requests", "billed_requests", "prompt_tokens", "completion_tokens")
    values = [total.get(name, 0) for name in names]
    return values[0], values[1], values[2], values[3]


async def events_of(answer: aiohttp.ClientResponse) -> list[str]:
    """The payloads of a stream, up to where it ends or breaks."""
    text = b""
    try:
        async for piece in answer.content.iter_any():
            text += piece
    except aiohttp.ClientPayloadError:
        text += b"data: BROKEN"
    return [part.removeprefix("data: ") for part in text.decode().split("\n\n") if part]


async def test_an_answer_is_billed_as_its_usage_says(sim: Simulated, http: aiohttp.ClientSession) -> None:
    async with http.post(sim.base_url + CALL, json=BODY, headers=LENGTH) as answer:
        body = await answer.json()
    usage = {"prompt_tokens": PROMPT, "completion_tokens": ANSWER, "total_tokens": PROMPT + ANSWER}
    assert (answer.status, body["usage"], body["model"]) == (200, usage, "dbrx-instruct-032724")
    assert billed(sim) == (1, 1, PROMPT, ANSWER)
    (record,) = sim.bill(recent=5)["client_request_ids"]
    assert abs(record.pop("at_ms") - time.time() * 1000) < 60_000
    assert [record] == [
        {
            "model": DBRX,
            "client_request_id": "hld_1",
            "usage_context": {"scope": "agent:a"},
            "prompt_tokens": PROMPT,
            "completion_tokens": ANSWER,
            "status": 200,
            "streamed": False,
        }
    ]


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_a_stream_shows_usage_only_when_asked(
    sim: Simulated, http: aiohttp.ClientSession, wants_usage: bool
) -> None:
    body = STREAM if wants_usage else {**BODY, "stream": True}
    async with http.post(sim.base_url + CALL, json=body, headers=LENGTH) as answer:
        events = await events_of(answer)
    assert events[-1] == "[DONE]"
    with_usage = [event for event in events[:-1] if "usage" in orjson.loads(event)]
    assert len(with_usage) == wants_usage
    if wants_usage:
        assert orjson.loads(with_usage[0])["choices"] == []
        assert orjson.loads(with_usage[0])["usage"]["completion_tokens"] == ANSWER
    assert billed(sim) == (1, 1, PROMPT, ANSWER)


@pytest.mark.parametrize(
    ("fault", "status", "code", "says"),
    [
        ("rate_limit", 429, "REQUEST_LIMIT_EXCEEDED", "workspace"),
        ("policy_limit", 429, "REQUEST_LIMIT_EXCEEDED", "user-defined"),
        ("daily_limit", 429, "REQUEST_LIMIT_EXCEEDED", "daily spend limit"),
        ("unavailable", 503, "TEMPORARILY_UNAVAILABLE", "unavailable"),
        ("deadline", 504, "DEADLINE_EXCEEDED", "deadline"),
        ("internal", 500, "INTERNAL_ERROR", "internal"),
        ("invalid_parameter", 400, "INVALID_PARAMETER_VALUE", "not supported"),
        ("not_found", 404, "RESOURCE_DOES_NOT_EXIST", "does not exist"),
        ("unauthorized", 401, "UNAUTHENTICATED", "expired"),
        ("forbidden", 403, "PERMISSION_DENIED", "permission"),
    ],
)
@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_an_error_is_not_billed(
    sim: Simulated,
    http: aiohttp.ClientSession,
    fault: str,
    status: int,
    code: str,
    says: str,
    body: dict[str, Any],
) -> None:
    sim.set_fault(DBRX, fault=fault)
    async with http.post(sim.base_url + CALL, json=body) as answer:
        error = await answer.json()
    assert (answer.status, error["error_code"]) == (status, code)
    assert says in error["message"]
    assert ("Retry-After" in answer.headers) == (fault == "rate_limit")
    assert billed(sim) == (1, 0, 0, 0)


async def test_the_three_429_have_different_texts(sim: Simulated, http: aiohttp.ClientSession) -> None:
    texts = set()
    for fault in ("rate_limit", "policy_limit", "daily_limit"):
        async with http.post(sim.base_url + CALL, json=BODY, headers={"X-Simulate-Fault": fault}) as answer:
            texts.add((await answer.json())["message"])
    assert len(texts) == 3


@pytest.mark.parametrize(
    ("fault", "completion"),
    [
        ("no_usage", None),
        ("zero_usage", 0),
        ("negative_usage", -ANSWER),
        ("huge_usage", 9_000_000_000_000_000),
    ],
)
async def test_wrong_usage_is_shown_and_the_truth_billed(
    sim: Simulated, http: aiohttp.ClientSession, fault: str, completion: int | None
) -> None:
    sim.set_fault(DBRX, fault=fault)
    async with http.post(sim.base_url + CALL, json=BODY, headers=LENGTH) as answer:
        shown = (await answer.json()).get("usage")
    async with http.post(sim.base_url + CALL, json=STREAM, headers=LENGTH) as answer:
        chunks = [orjson.loads(event) for event in (await events_of(answer))[:-1]]
    streamed = next((chunk["usage"] for chunk in chunks if "usage" in chunk), None)
    assert shown == streamed
    assert (shown["completion_tokens"] if shown else None) == completion
    assert billed(sim) == (2, 2, 2 * PROMPT, 2 * ANSWER)


async def test_a_garbage_answer_is_billed(sim: Simulated, http: aiohttp.ClientSession) -> None:
    sim.set_fault(DBRX, fault="garbage")
    async with http.post(sim.base_url + CALL, json=BODY, headers=LENGTH) as answer:
        text = await answer.read()
    assert answer.status == 200
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(text)
    assert billed(sim) == (1, 1, PROMPT, ANSWER)


async def test_a_broken_stream_is_billed_up_to_the_break(sim: Simulated, http: aiohttp.ClientSession) -> None:
    sim.set_fault(DBRX, fault="break_stream", chunks=3)
    async with http.post(sim.base_url + CALL, json=STREAM, headers=LENGTH) as answer:
        events = await events_of(answer)
    assert len(events) == 4 and events[-1] == "BROKEN"
    assert billed(sim) == (1, 1, PROMPT, 3 * 4)


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_truncated_body(sim: Simulated, http: aiohttp.ClientSession, body: dict[str, Any]) -> None:
    sim.set_fault(DBRX, fault="truncated")
    async with http.post(sim.base_url + CALL, json=body, headers=LENGTH) as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    made = ANSWER if body is BODY else ANSWER // 2 + 4
    assert billed(sim) == (1, 1, PROMPT, made)


async def test_a_stream_without_its_end_mark(sim: Simulated, http: aiohttp.ClientSession) -> None:
    sim.set_fault(DBRX, fault="stream_without_done")
    async with http.post(sim.base_url + CALL, json=STREAM, headers=LENGTH) as answer:
        events = await events_of(answer)
    assert "[DONE]" not in events and "BROKEN" not in events
    assert billed(sim) == (1, 1, PROMPT, ANSWER)


@pytest.mark.parametrize(("pays", "bill"), [(False, (1, 0, 0, 0)), (True, (1, 1, PROMPT, 0))])
async def test_a_hang_is_billed_only_if_it_says_so(
    sim: Simulated, http: aiohttp.ClientSession, pays: bool, bill: tuple[int, int, int, int]
) -> None:
    sim.set_fault(DBRX, fault="hang", billed=pays)
    with pytest.raises(TimeoutError):
        await http.post(sim.base_url + CALL, json=BODY, timeout=aiohttp.ClientTimeout(total=0.3))
    await asyncio.to_thread(sim.wait_idle)
    assert billed(sim) == bill


async def test_a_slow_call_is_answered_late(sim: Simulated, http: aiohttp.ClientSession) -> None:
    sim.set_fault(DBRX, fault="slow", delay_ms=150)
    started_s = asyncio.get_running_loop().time()
    async with http.post(sim.base_url + CALL, json=BODY) as answer:
        assert answer.status == 200
    assert asyncio.get_running_loop().time() - started_s >= 0.15


async def test_a_client_that_leaves_stops_the_stream_and_its_bill(sim: Simulated, http: aiohttp.ClientSession) -> None:
    sim.change_model(DBRX, chunk_delay_ms=20)
    try:
        async with http.post(sim.base_url + CALL, json=STREAM, headers={"X-Simulate-Output-Tokens": "4000"}) as answer:
            await answer.content.readline()
            answer.close()
        await asyncio.to_thread(sim.wait_idle)
    finally:
        sim.change_model(DBRX, chunk_delay_ms=0)
    requests, paid, prompt, made = billed(sim)
    assert (requests, paid, prompt) == (1, 1, PROMPT)
    assert 4 <= made < 400


async def test_a_call_without_a_stream_is_billed_although_its_client_left(
    http: aiohttp.ClientSession,
) -> None:
    with running_simulator(latency_ms=300) as own:
        with pytest.raises(TimeoutError):
            await http.post(own.base_url + CALL, json=BODY, headers=LENGTH, timeout=aiohttp.ClientTimeout(total=0.1))
        async with http.post(own.base_url + CALL, json=BODY, headers=LENGTH) as answer:
            assert answer.status == 200
        assert billed(own) == (2, 2, 2 * PROMPT, 2 * ANSWER)


async def test_faults_come_as_often_and_as_late_as_they_say(sim: Simulated, http: aiohttp.ClientSession) -> None:
    async def statuses(count: int) -> list[int]:
        found = []
        for _ in range(count):
            async with http.post(sim.base_url + CALL, json=BODY) as answer:
                found.append(answer.status)
        return found

    sim.set_fault(DBRX, fault="internal", times=2, after=1)
    assert await statuses(5) == [200, 500, 500, 200, 200]
    sim.set_faults(DBRX, [{"fault": "internal", "times": 1}, {"fault": "unavailable", "times": 1}])
    assert await statuses(3) == [500, 503, 200]
    sim.set_fault("*", fault="internal", probability=0.5, seed=7)
    first = await statuses(12)
    sim.set_fault("*", fault="internal", probability=0.5, seed=7)
    assert await statuses(12) == first and {200, 500} == set(first)


async def test_the_bill_outlives_the_process(http: aiohttp.ClientSession, tmp_path: Any) -> None:
    path = str(tmp_path / "deep" / "bill.json")
    with running_simulator(bill_path=path) as first:
        async with http.post(first.base_url + CALL, json=BODY, headers=LENGTH) as answer:
            assert answer.status == 200
        before = first.bill()
    with running_simulator(bill_path=path) as second:
        assert second.bill() == before
        async with http.post(second.base_url + CALL, json=BODY, headers=LENGTH) as answer:
            assert answer.status == 200
        assert billed(second) == (2, 2, 2 * PROMPT, 2 * ANSWER)


async def test_500_calls_at_once_are_all_billed(sim: Simulated, http: aiohttp.ClientSession) -> None:
    async def one() -> int:
        async with http.post(sim.base_url + CALL, json=BODY, headers=LENGTH) as answer:
            return int((await answer.json())["usage"]["total_tokens"])

    totals = await asyncio.gather(*(one() for _ in range(500)))
    assert billed(sim) == (500, 500, 500 * PROMPT, 500 * ANSWER)
    assert sum(totals) == 500 * (PROMPT + ANSWER)
