"""The mapping to the litellm SDK, with a stand-in for it: the SDK itself is an extra that tests do not install."""

import asyncio
import sys
from collections.abc import AsyncIterator
from types import ModuleType, SimpleNamespace
from typing import Any

import orjson
import pytest

from core.errors import ConfigError
from routing.adapters.litellm_sdk import LiteLLM
from routing.errors import FailureKind, UpstreamError
from tests.routing.servers import ANSWER, call, endpoint
from tests.support.streams import payloads_of


class SdkError(Exception):
    """As litellm's: a status and a message."""

    def __init__(self, status_code: object, message: str = "litellm.Error: no") -> None:
        super().__init__(message)
        self.status_code = status_code
        self.message = message


class APIConnectionError(SdkError):
    pass


class Model:
    """As litellm's answers: a pydantic model, in as far as it is used."""

    def __init__(self, data: object) -> None:
        self.data = data

    def model_dump(self, mode: str) -> object:
        assert mode == "json"
        return self.data


class Chunks:
    def __init__(self, *chunks: Any) -> None:
        self.chunks = chunks
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[Model]:
        for chunk in self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            if chunk is None:
                await asyncio.Event().wait()
            yield Model(chunk)

    async def aclose(self) -> None:
        self.closed += 1


@pytest.fixture
def sdk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """asked: the arguments of each call. answer: what it gives back; an exception is raised."""
    module: Any = ModuleType("litellm")
    module.asked, module.answer = [], Model(ANSWER)
    module.exceptions = SimpleNamespace(LITELLM_EXCEPTION_TYPES=[SdkError])

    async def ask(**arguments: Any) -> Any:
        module.asked.append(arguments)
        if isinstance(module.answer, Exception):
            raise module.answer
        return await module.answer() if callable(module.answer) else module.answer

    module.acompletion = module.aembedding = ask
    monkeypatch.setitem(sys.modules, "litellm", module)
    return module


def adapter(**changes: Any) -> LiteLLM:
    return LiteLLM(endpoint("http://gateway", "litellm", **changes))


async def test_a_call(sdk: Any) -> None:
    answer = await adapter().send(call())
    assert (answer.body, answer.raw) == (ANSWER, b"")
    assert sdk.asked == [
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 5,
            "model": "up/stream",
            "timeout": 5.0,
            "num_retries": 0,
            "max_retries": 0,
            "api_key": "key-0123456789",
            "api_base": "http://gateway",
        }
    ]


async def test_what_the_endpoint_does_not_say_is_the_sdks_own(sdk: Any) -> None:
    await LiteLLM(endpoint("", "litellm", api_key=None)).send(call({"input": "x"}, operation="embeddings"))
    assert not {"api_key", "api_base"} & sdk.asked[0].keys()
    assert sdk.asked[0]["input"] == "x"


@pytest.mark.parametrize(
    "name", ["api_base", "base_url", "api_key", "mock_response", "fallbacks", "custom_llm_provider"]
)
async def test_a_caller_does_not_reach_the_sdks_controls(sdk: Any, name: str) -> None:
    with pytest.raises(UpstreamError) as caught:
        await adapter().send(call({"messages": [], name: "x"}))
    assert caught.value.kind is FailureKind.REJECTED
    assert name in caught.value.message
    assert sdk.asked == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SdkError(400), FailureKind.REJECTED),
        (SdkError(401), FailureKind.UNAUTHORIZED),
        (SdkError(403), FailureKind.UNAUTHORIZED),
        (SdkError(404), FailureKind.NOT_FOUND),
        (SdkError(408), FailureKind.TIMEOUT),
        (SdkError(422), FailureKind.REJECTED),
        (SdkError(429), FailureKind.RATE_LIMITED),
        (SdkError(429, "insufficient_quota: pay"), FailureKind.DAILY_LIMIT),
        (SdkError(500), FailureKind.UNAVAILABLE),
        (SdkError(503), FailureKind.UNAVAILABLE),
        (APIConnectionError(500), FailureKind.BROKEN),
        (SdkError(None), FailureKind.BROKEN),
    ],
)
async def test_its_exceptions_by_status(sdk: Any, error: Exception, kind: FailureKind) -> None:
    sdk.answer = error
    for ask in (adapter().send, adapter().open_stream):
        with pytest.raises(UpstreamError) as caught:
            await ask(call())
        assert caught.value.kind is kind


async def test_a_bug_is_no_failure_of_the_provider(sdk: Any) -> None:
    sdk.answer = KeyError("ours")
    with pytest.raises(KeyError):
        await adapter().send(call())


async def test_a_call_that_never_returns(sdk: Any) -> None:
    sdk.answer = asyncio.Event().wait
    with pytest.raises(UpstreamError) as caught:
        await adapter().send(call(timeout_s=0.05))
    assert caught.value.kind is FailureKind.TIMEOUT


async def test_an_answer_that_is_none(sdk: Any) -> None:
    sdk.answer = Model(["x"])
    with pytest.raises(UpstreamError) as caught:
        await adapter().send(call())
    assert caught.value.kind is FailureKind.BROKEN


DELTA = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": None}]}
LAST = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 1}}


async def streamed(sdk: Any, *chunks: Any) -> tuple[list[Any], UpstreamError | None]:
    sdk.answer = Chunks(*chunks)
    stream = await adapter().open_stream(call(timeout_s=0.1))
    events, failure = [], None
    try:
        async for payload in payloads_of(stream):
            events.append(orjson.loads(payload))
    except UpstreamError as error:
        failure = error
    await stream.close()
    assert sdk.answer.closed == 1
    return events, failure


async def test_a_stream(sdk: Any) -> None:
    assert await streamed(sdk, DELTA, LAST, USAGE) == ([DELTA, LAST, USAGE], None)
    assert sdk.asked[0]["stream"] is True
    assert sdk.asked[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("chunks", "kind"),
    [
        ([DELTA], FailureKind.BROKEN),
        ([DELTA, None], FailureKind.TIMEOUT),
        ([DELTA, SdkError(503)], FailureKind.BROKEN),
        ([DELTA, SdkError(408)], FailureKind.TIMEOUT),
    ],
)
async def test_a_stream_that_breaks(sdk: Any, chunks: list[Any], kind: FailureKind) -> None:
    events, failure = await streamed(sdk, *chunks)
    assert events == [DELTA]
    assert failure is not None and failure.kind is kind


async def test_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(ConfigError, match=r"pip install 'spendgate\[litellm\]'"):
        await adapter().send(call())
