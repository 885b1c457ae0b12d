"""Anthropic's stream events to OpenAI's chunks. Pure.

message_start · (content_block_start · content_block_delta… · content_block_stop)… · message_delta · message_stop,
with pings anywhere. Usage comes in parts: `message_start` has the input, `message_delta` is cumulative, so what it
says replaces what was said before.
Source: https://docs.anthropic.com/en/api/messages-streaming
"""

from collections.abc import Mapping
from typing import Any

import orjson

from routing.adapters.anthropic_convert import convert_usage, finish_reason
from routing.adapters.failures import clean_message
from routing.errors import FailureKind, UpstreamError


class StreamConverter:
    """One stream's state. ended: `message_stop` came."""

    def __init__(self, created_s: int) -> None:
        self.ended = False
        self._head: dict[str, Any] = {
            "id": None,
            "object": "chat.completion.chunk",
            "created": created_s,
            "model": None,
        }
        self._usage: dict[str, Any] = {}
        self._tool = -1
        self._open_input: object = None  # of the tool block that is open and has given no arguments yet

    def feed(self, payload: bytes) -> list[dict[str, Any]]:
        """The chunks that an event becomes; often none.

        Raises:
            UpstreamError: BROKEN, for an `error` event or one that can't be read.
        """
        try:
            event = orjson.loads(payload)
        except orjson.JSONDecodeError:
            event = None
        if not isinstance(event, dict):
            raise UpstreamError(FailureKind.BROKEN, "an event of the stream is no JSON object")
        match event.get("type"):
            case "message_start":
                return self._message_start(_mapping(event, "message"))
            case "content_block_start":
                return self._block_start(_mapping(event, "content_block"))
            case "content_block_delta":
                return self._block_delta(_mapping(event, "delta"))
            case "content_block_stop":
                return self._block_stop()
            case "message_delta":
                return self._message_delta(event)
            case "message_stop":
                return self._message_stop()
            case "error":
                raise _error(_mapping(event, "error"))
        return []  # ping, and what may be added

    def _message_start(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._head |= {"id": message.get("id"), "model": message.get("model")}
        self._note_usage(message.get("usage"))
        return [self._chunk({"role": "assistant", "content": ""})]

    def _block_start(self, block: Mapping[str, Any]) -> list[dict[str, Any]]:
        if block.get("type") == "text" and block.get("text"):
            return [self._chunk({"content": block["text"]})]
        if block.get("type") != "tool_use":
            return []
        self._tool += 1
        self._open_input = block.get("input") or {}
        function = {"name": block.get("name"), "arguments": ""}
        return [self._tool_chunk({"id": block.get("id"), "type": "function", "function": function})]

    def _block_delta(self, delta: Mapping[str, Any]) -> list[dict[str, Any]]:
        if delta.get("type") == "text_delta" and delta.get("text"):
            return [self._chunk({"content": delta["text"]})]
        if delta.get("type") == "input_json_delta" and delta.get("partial_json"):
            self._open_input = None
            return [self._tool_chunk({"function": {"arguments": delta["partial_json"]}})]
        return []  # thinking and signatures have no place in OpenAI's chunks; their tokens are in the usage

    def _block_stop(self) -> list[dict[str, Any]]:
        """A tool that takes nothing sends no arguments; clients parse them, so they get an empty object."""
        left, self._open_input = self._open_input, None
        if left is None:
            return []
        return [self._tool_chunk({"function": {"arguments": orjson.dumps(left).decode()}})]

    def _message_delta(self, event: Mapping[str, Any]) -> list[dict[str, Any]]:
        self._note_usage(event.get("usage"))
        delta = _mapping(event, "delta")
        return [] if delta.get("stop_reason") is None else [self._chunk({}, finish_reason(delta))]

    def _message_stop(self) -> list[dict[str, Any]]:
        self.ended = True
        usage = convert_usage(self._usage)
        return [] if usage is None else [{**self._head, "choices": [], "usage": usage}]

    def _note_usage(self, usage: object) -> None:
        if isinstance(usage, Mapping):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _tool_chunk(self, call: dict[str, Any]) -> dict[str, Any]:
        return self._chunk({"tool_calls": [{"index": self._tool, **call}]})

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**self._head, "choices": [choice]}


def _mapping(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def _error(error: Mapping[str, Any]) -> UpstreamError:
    message = clean_message(str(error.get("message") or "")) or "the provider broke off with an error"
    return UpstreamError(FailureKind.BROKEN, message, vendor_code=str(error.get("type") or "") or None)
