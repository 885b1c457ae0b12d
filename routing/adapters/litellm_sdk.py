"""Every other provider, through the litellm SDK: an optional extra, imported with the first call that needs it.

Only the fields of OpenAI's API that are listed here are passed on: the SDK reads its own controls (`api_base`,
`mock_response`, `callbacks`, …) from the same arguments, and a caller must not reach those. Its retries are off;
the flow decides about them.
Source: https://docs.litellm.ai/docs/completion/input and https://docs.litellm.ai/docs/exception_mapping
"""

import asyncio
import importlib
from typing import Any

import orjson

from core.errors import ConfigError
from routing.adapters.failures import clean_message, kind_of
from routing.adapters.http import broken
from routing.adapters.http_events import Drained, Take
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint
from routing.upstream import UpstreamAnswer, UpstreamCall

_FIELDS = {
    "chat": frozenset(
        {
            "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed", "user",
            "presence_penalty", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format",
            "reasoning_effort", "tools", "tool_choice", "parallel_tool_calls",
        }
    ),
    "embeddings": frozenset({"input", "dimensions", "encoding_format", "user"}),
}  # fmt: skip
#: Without effect on an answer here.
_IGNORED = frozenset({"model", "stream", "stream_options", "store", "metadata", "service_tier", "modalities"})


class LiteLLM:
    """An `Upstream` for whatever `model.upstream_name` names in litellm's words, such as ``bedrock/…``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def send(self, call: UpstreamCall) -> UpstreamAnswer:
        """See `Upstream.send`; also raises ConfigError if the SDK is not installed."""
        return UpstreamAnswer(as_object(await self._ask(call, {})))

    async def open_stream(self, call: UpstreamCall) -> "LiteLLMStream":
        """See `Upstream.open_stream`; also raises ConfigError if the SDK is not installed."""
        chunks = await self._ask(call, {"stream": True, "stream_options": {"include_usage": True}})
        return LiteLLMStream(chunks, min(call.timeout_s, self._endpoint.timeout_s))

    async def close(self) -> None:
        """The SDK keeps its connections to itself."""

    async def _ask(self, call: UpstreamCall, options: dict[str, Any]) -> Any:
        sdk = load_sdk()
        arguments = self._arguments(call) | options
        ask = sdk.acompletion if call.operation == "chat" else sdk.aembedding
        try:
            async with asyncio.timeout(arguments["timeout"]):
                return await ask(**arguments)
        except TimeoutError as error:
            raise UpstreamError(FailureKind.TIMEOUT, "no complete answer in time") from error
        except exceptions_of(sdk) as error:
            raise sort_exception(error) from error

    def _arguments(self, call: UpstreamCall) -> dict[str, Any]:
        allowed = _FIELDS[call.operation]
        for name, value in call.body.items():
            if value is not None and name not in allowed and name not in _IGNORED:
                raise UpstreamError(FailureKind.REJECTED, f"{name} is not supported for this model")
        arguments = {name: value for name, value in call.body.items() if name in allowed and value is not None}
        arguments |= {
            "model": call.model.upstream_name,
            "timeout": min(call.timeout_s, self._endpoint.timeout_s),
            "num_retries": 0,
            "max_retries": 0,
        }
        if self._endpoint.api_key:
            arguments["api_key"] = self._endpoint.api_key
        if self._endpoint.base_url:
            arguments["api_base"] = self._endpoint.base_url
        return arguments


class LiteLLMStream:
    """An `UpstreamStream` over the SDK's chunks. It has no end mark: a choice must have said why it finished."""

    def __init__(self, chunks: Any, timeout_s: float) -> None:
        self._chunks = chunks
        self._timeout_s = timeout_s

    async def pour(self, take: Take, drained: Drained) -> None:
        """OpenAI's chunks; see `UpstreamStream.pour`."""
        finished = False
        iterator = aiter(self._chunks)
        while (chunk := await self._next(iterator)) is not None:
            finished = finished or any(choice.get("finish_reason") for choice in chunk.get("choices") or ())
            if not take([orjson.dumps(chunk)]):
                await drained()
        if not finished:
            raise broken("the stream ended before the answer did")

    async def close(self) -> None:
        """Close the SDK's stream; which of its parts can be closed depends on the provider."""
        for part in (self._chunks, getattr(self._chunks, "completion_stream", None)):
            aclose = getattr(part, "aclose", None)
            if aclose is not None:
                await aclose()
                return

    async def _next(self, iterator: Any) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                return as_object(await anext(iterator))
        except StopAsyncIteration:
            return None
        except TimeoutError as error:
            raise UpstreamError(FailureKind.TIMEOUT, "the stream stalled") from error
        except exceptions_of(load_sdk()) as error:
            sorted_error = sort_exception(error)
            if sorted_error.kind is not FailureKind.TIMEOUT:
                sorted_error.kind = FailureKind.BROKEN  # whatever it is, the answer had begun
            raise sorted_error from error


def load_sdk() -> Any:
    """The litellm module; loading it takes seconds, once.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("litellm")
    except ModuleNotFoundError as error:
        if error.name != "litellm":
            raise
        raise ConfigError("a model needs the litellm SDK: pip install 'spendgate[litellm]'") from None


def exceptions_of(sdk: Any) -> tuple[type[Exception], ...]:
    """The exceptions by which the SDK reports a provider's failure."""
    return tuple(sdk.exceptions.LITELLM_EXCEPTION_TYPES)


def sort_exception(error: Exception) -> UpstreamError:
    """One of those as an `UpstreamError`, by its `status_code`.

    A connection error says 500 but not whether the request was out: BROKEN, so that it counts as charged.
    """
    status = getattr(error, "status_code", None)
    text = str(getattr(error, "message", "") or error)
    if not isinstance(status, int):
        return broken(f"the provider failed ({type(error).__name__})")
    if status == 408:  # the SDK's Timeout
        kind = FailureKind.TIMEOUT
    elif type(error).__name__ == "APIConnectionError":
        kind = FailureKind.BROKEN
    else:
        kind = kind_of(status, text.lower())
    if kind is FailureKind.UNAUTHORIZED:
        text = f"the provider refuses our credentials (status {status})"
    return UpstreamError(kind, clean_message(text), status, type(error).__name__)


def as_object(answer: Any) -> dict[str, Any]:
    """One of the SDK's answers or chunks, which are pydantic models, as a JSON object.

    Raises:
        UpstreamError: BROKEN, it is none.
    """
    data = answer.model_dump(mode="json") if hasattr(answer, "model_dump") else answer
    if not isinstance(data, dict):
        raise broken("the answer is not an object")
    return data
