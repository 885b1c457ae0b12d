"""Every fault of the simulated Databricks, by the adapter and the usage reader; see also test_against_simulator."""

import contextlib
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
from simulator.faults import FaultKind
from telemetry.usage import ExactUsage, read_usage
from tests.support.simulated import Simulated, running_simulator
from tests.support.streams import payloads_of

DBRX = Model("databricks-dbrx-instruct", "databricks", "databricks-dbrx-instruct")
IDS = RandomIds(SystemClock())
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "parameters": {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]},
        },
    }
]


@pytest.fixture(scope="module")
def running() -> Iterator[Simulated]:
    with running_simulator(access_tokens=["pat-0123456789"]) as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulated) -> Simulated:
    running.clear_faults()
    running.reset()
    return running


@pytest.fixture
async def adapter(simulator: Simulated) -> AsyncIterator[Databricks]:
    made = Databricks(Endpoint("dbx", "databricks", simulator.base_url, "pat-0123456789"), SystemClock())
    yield made
    await made.close()


def asked(timeout_s: float = 5.0, **body: Any) -> UpstreamCall:
    full = {"messages": [{"role": "user", "content": "Tell me a story"}], "max_tokens": 40} | body
    return UpstreamCall(DBRX, full, "chat", IDS.new("hld"), timeout_s)


async def outcome(adapter: Databricks, call: UpstreamCall, stream: bool) -> tuple[object, FailureKind | None]:
    """What was said to be used, None if nothing was, and how the call failed if it did."""
    usage: object = None
    try:
        if not stream:
            return (await adapter.send(call)).body.get("usage"), None
        opened = await adapter.open_stream(call)
        try:
            async for payload in payloads_of(opened):
                with contextlib.suppress(orjson.JSONDecodeError):  # garbage passes as it comes
                    usage = orjson.loads(payload).get("usage") or usage
        finally:
            await opened.close()
    except UpstreamError as error:
        return usage, error.kind
    return usage, None


#: (fault, of an answer, of a stream): how it fails; None: it does not.
FAULTS: list[tuple[FaultKind, FailureKind | None, FailureKind | None]] = [
    (FaultKind.RATE_LIMIT, FailureKind.RATE_LIMITED, FailureKind.RATE_LIMITED),
    (FaultKind.POLICY_LIMIT, FailureKind.POLICY_LIMITED, FailureKind.POLICY_LIMITED),
    (FaultKind.DAILY_LIMIT, FailureKind.DAILY_LIMIT, FailureKind.DAILY_LIMIT),
    (FaultKind.UNAVAILABLE, FailureKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    (FaultKind.DEADLINE, FailureKind.TIMEOUT, FailureKind.TIMEOUT),
    (FaultKind.INTERNAL, FailureKind.UNAVAILABLE, FailureKind.UNAVAILABLE),
    (FaultKind.INVALID_PARAMETER, FailureKind.REJECTED, FailureKind.REJECTED),
    (FaultKind.NOT_FOUND, FailureKind.NOT_FOUND, FailureKind.NOT_FOUND),
    (FaultKind.UNAUTHORIZED, FailureKind.UNAUTHORIZED, FailureKind.UNAUTHORIZED),
    (FaultKind.FORBIDDEN, FailureKind.UNAUTHORIZED, FailureKind.UNAUTHORIZED),
    (FaultKind.BREAK_STREAM, FailureKind.BROKEN, FailureKind.BROKEN),
    (FaultKind.NO_USAGE, None, None),
    (FaultKind.ZERO_USAGE, None, None),
    (FaultKind.NEGATIVE_USAGE, None, None),
    (FaultKind.HUGE_USAGE, None, None),
    (FaultKind.GARBAGE, FailureKind.BROKEN, FailureKind.BROKEN),
    (FaultKind.HANG, FailureKind.TIMEOUT, FailureKind.TIMEOUT),
    (FaultKind.SLOW, FailureKind.TIMEOUT, FailureKind.TIMEOUT),
    (FaultKind.TRUNCATED, FailureKind.BROKEN, FailureKind.BROKEN),
    (FaultKind.STREAM_WITHOUT_DONE, None, FailureKind.BROKEN),
    (FaultKind.NAN_USAGE, FailureKind.BROKEN, None),  # what an event holds is read by the flow
    (FaultKind.USAGE_TWICE, None, None),
    (FaultKind.INVALID_UTF8, FailureKind.BROKEN, None),
    (FaultKind.WRONG_SHAPE, None, None),
    (FaultKind.HUGE_ANSWER, FailureKind.BROKEN, FailureKind.BROKEN),
    (FaultKind.GZIP_BOMB, FailureKind.BROKEN, FailureKind.BROKEN),
    (FaultKind.DRIP, FailureKind.TIMEOUT, FailureKind.TIMEOUT),
    (FaultKind.ENDLESS, FailureKind.BROKEN, FailureKind.BROKEN),
    (FaultKind.EMPTY_CHUNKS, FailureKind.BROKEN, FailureKind.BROKEN),
]
IMPATIENT = {FaultKind.HANG, FaultKind.SLOW, FaultKind.DRIP}
OPTIONS = {kind: {"answer_bytes": 200_000} for kind in (FaultKind.ENDLESS, FaultKind.EMPTY_CHUNKS)}


def test_none_is_left_out() -> None:
    assert [fault for fault, _, _ in FAULTS] == list(FaultKind)


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize(("fault", "answer_kind", "stream_kind"), FAULTS, ids=[fault for fault, _, _ in FAULTS])
async def test_each_fault(
    simulator: Simulated,
    adapter: Databricks,
    fault: FaultKind,
    answer_kind: FailureKind | None,
    stream_kind: FailureKind | None,
    stream: bool,
) -> None:
    simulator.set_fault(DBRX.name, fault=fault, times=1, **OPTIONS.get(fault, {}))
    _, kind = await outcome(adapter, asked(timeout_s=0.4 if fault in IMPATIENT else 5.0), stream)
    assert kind is (stream_kind if stream else answer_kind)
    usage, kind = await outcome(adapter, asked(), stream)  # the adapter is none the worse for it
    assert kind is None
    assert isinstance(read_usage(usage), ExactUsage)


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
@pytest.mark.parametrize("fault", ["no_usage", "zero_usage", "negative_usage", "huge_usage"])
async def test_usage_that_is_nonsense_is_not_believed(
    simulator: Simulated, adapter: Databricks, fault: str, stream: bool
) -> None:
    simulator.set_fault(DBRX.name, fault=fault)
    usage, kind = await outcome(adapter, asked(), stream)
    assert kind is None
    assert isinstance(read_usage(usage), str)


@pytest.mark.parametrize("stream", [False, True], ids=["answer", "stream"])
async def test_slow_is_no_failure_for_the_patient(simulator: Simulated, adapter: Databricks, stream: bool) -> None:
    simulator.set_fault(DBRX.name, fault="slow", delay_ms=300)
    usage, kind = await outcome(adapter, asked(), stream)
    assert kind is None
    assert isinstance(read_usage(usage), ExactUsage)


@pytest.mark.parametrize("fault", ["rate_limit", "policy_limit", "unavailable"])
async def test_retry_after_is_passed_on(simulator: Simulated, adapter: Databricks, fault: str) -> None:
    simulator.set_fault(DBRX.name, fault=fault, retry_after_s=17)
    for ask in (adapter.send, adapter.open_stream):
        with pytest.raises(UpstreamError) as caught:
            await ask(asked())
        assert caught.value.retry_after_s == 17.0
        assert caught.value.status in (429, 503)


async def test_a_token_that_is_not_known(simulator: Simulated) -> None:
    stranger = Databricks(Endpoint("dbx", "databricks", simulator.base_url, "pat-of-another"), SystemClock())
    _, kind = await outcome(stranger, asked(), stream=False)
    await stranger.close()
    assert kind is FailureKind.UNAUTHORIZED
    assert not any(model["prompt_tokens"] for model in simulator.bill()["models"].values())


async def test_a_tool_is_called(adapter: Databricks) -> None:
    answer = await adapter.send(asked(tools=TOOLS, tool_choice="required"))
    (call,) = answer.body["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "look_up"
    assert isinstance(orjson.loads(call["function"]["arguments"])["id"], int)


async def test_a_tool_is_called_in_a_stream(adapter: Databricks) -> None:
    opened = await adapter.open_stream(asked(tools=TOOLS, tool_choice="required"))
    chunks = [orjson.loads(payload) async for payload in payloads_of(opened)]
    await opened.close()
    pieces = [p for c in chunks for ch in c["choices"] for p in ch["delta"].get("tool_calls", ())]
    assert pieces[0]["function"]["name"] == "look_up"
    arguments = "".join(piece["function"].get("arguments") or "" for piece in pieces)
    assert isinstance(orjson.loads(arguments)["id"], int)
