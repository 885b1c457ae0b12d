"""The Databricks adapter against the simulated Databricks: what it says, what it breaks, and what it bills."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest

from core.clock import SystemClock
from core.ids import RandomIds
from routing.adapters.databricks import Databricks
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint, Model
from routing.upstream import UpstreamCall
from tests.support.simulated import Simulated, running_simulator
from tests.support.streams import payloads_of

DBRX = Model("databricks-dbrx-instruct", "databricks", "databricks-dbrx-instruct")
GTE = Model("databricks-gte-large-en", "databricks", "databricks-gte-large-en", kind="embedding")
IDS = RandomIds(SystemClock())


@pytest.fixture(scope="module")
def running() -> Iterator[Simulated]:
    with running_simulator(client_id="id", client_secret="secret") as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulated) -> Simulated:
    running.clear_faults()
    running.change_model(DBRX.name, accepts_stream_options=True)
    running.reset()
    return running


@pytest.fixture
async def adapter(simulator: Simulated) -> AsyncIterator[Databricks]:
    endpoint = Endpoint(
        "databricks", "databricks", simulator.base_url + "/serving-endpoints", client_id="id", client_secret="secret"
    )
    made = Databricks(endpoint, SystemClock())
    yield made
    await made.close()


def asked(model: Model = DBRX, **changes: Any) -> UpstreamCall:
    body = {"messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 40}
    fields: dict[str, Any] = {
        "model": model,
        "body": body,
        "operation": "chat",
        "attempt_id": IDS.new("hld"),
        "timeout_s": 5.0,
        "usage_context": {"agent": "bot"},
    }
    return UpstreamCall(**(fields | changes))


async def stream(adapter: Databricks, call: UpstreamCall) -> tuple[list[Any], UpstreamError | None]:
    opened = await adapter.open_stream(call)
    chunks, failure = [], None
    try:
        async for payload in payloads_of(opened):
            chunks.append(orjson.loads(payload))
    except UpstreamError as error:
        failure = error
    await opened.close()
    return chunks, failure


async def test_usage_is_what_it_bills(simulator: Simulated, adapter: Databricks) -> None:
    call = asked()
    usage = (await adapter.send(call)).body["usage"]
    chunks, failure = await stream(adapter, asked())
    assert failure is None
    assert chunks[-1]["usage"] == usage
    bill = simulator.bill(recent=2)
    assert bill["models"][DBRX.name]["prompt_tokens"] == 2 * usage["prompt_tokens"]
    assert bill["models"][DBRX.name]["completion_tokens"] == 2 * usage["completion_tokens"]
    noted = [r for r in bill["client_request_ids"] if r["client_request_id"] == call.attempt_id]
    assert [r["usage_context"] for r in noted] == [{"agent": "bot"}]


async def test_embeddings(adapter: Databricks) -> None:
    answer = await adapter.send(asked(GTE, body={"input": ["a", "b"]}, operation="embeddings"))
    assert len(answer.body["data"]) == 2


async def test_a_model_that_takes_no_stream_options(simulator: Simulated, adapter: Databricks) -> None:
    simulator.change_model(DBRX.name, accepts_stream_options=False)
    for _ in range(2):
        chunks, failure = await stream(adapter, asked())
        assert (failure, bool(chunks)) == (None, True)
    assert simulator.bill()["calls"] == 3


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("rate_limit", FailureKind.RATE_LIMITED),
        ("policy_limit", FailureKind.POLICY_LIMITED),
        ("daily_limit", FailureKind.DAILY_LIMIT),
        ("unavailable", FailureKind.UNAVAILABLE),
        ("deadline", FailureKind.TIMEOUT),
        ("internal", FailureKind.UNAVAILABLE),
        ("invalid_parameter", FailureKind.REJECTED),
        ("not_found", FailureKind.NOT_FOUND),
        ("unauthorized", FailureKind.UNAUTHORIZED),
        ("forbidden", FailureKind.UNAUTHORIZED),
    ],
)
async def test_its_refusals(simulator: Simulated, adapter: Databricks, fault: str, kind: FailureKind) -> None:
    simulator.set_fault(DBRX.name, fault=fault)
    for ask in (adapter.send, adapter.open_stream):
        with pytest.raises(UpstreamError) as caught:
            await ask(asked())
        assert caught.value.kind is kind


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("garbage", FailureKind.BROKEN), ("truncated", FailureKind.BROKEN), ("hang", FailureKind.TIMEOUT)],
)
async def test_its_broken_answers(simulator: Simulated, adapter: Databricks, fault: str, kind: FailureKind) -> None:
    simulator.set_fault(DBRX.name, fault=fault)
    with pytest.raises(UpstreamError) as caught:
        await adapter.send(asked(timeout_s=0.5))
    assert caught.value.kind is kind
    await asyncio.to_thread(simulator.wait_idle)


@pytest.mark.parametrize("fault", ["break_stream", "stream_without_done"])
async def test_its_broken_streams(simulator: Simulated, adapter: Databricks, fault: str) -> None:
    simulator.set_fault(DBRX.name, fault=fault)
    chunks, failure = await stream(adapter, asked())
    assert chunks
    assert failure is not None and failure.kind is FailureKind.BROKEN


async def test_closing_a_stream_stops_its_bill(simulator: Simulated, adapter: Databricks) -> None:
    simulator.change_model(DBRX.name, output_tokens=4000, chunk_delay_ms=5)
    try:
        opened = await adapter.open_stream(asked(body={"messages": [{"role": "user", "content": "x"}]}))
        assert await anext(payloads_of(opened))
        await opened.close()
        await asyncio.to_thread(simulator.wait_idle)
        assert simulator.bill()["models"][DBRX.name]["completion_tokens"] < 400
    finally:
        simulator.change_model(DBRX.name, output_tokens=None, chunk_delay_ms=0)
