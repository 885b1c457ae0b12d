"""Chat: a request checked and turned into a plan, and the plan turned into an answer or a stream's events.

Pure. A plan holds every token that will be sent, so what is billed and what is sent cannot differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from simulator.answers import example_of, reply_tokens
from simulator.errors import invalid_parameter
from simulator.settings import ModelSettings
from simulator.tokens import count_json, count_messages, count_tokens, split_tokens

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_MAX_CHOICES = 5
_MAX_OUTPUT_TOKENS = 200_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer. tokens: of the content, or of a tool call's arguments. head_tokens: of the tool's name."""

    tokens: list[str]
    finish_reason: str
    tool_name: str | None = None
    call_id: str = ""
    head_tokens: int = 0

    @property
    def completion_tokens(self) -> int:
        """What this answer is billed with."""
        return self.head_tokens + len(self.tokens)


@dataclass(frozen=True, slots=True)
class ChatPlan:
    """A checked request and its answers. max_tokens: None if the caller named none."""

    prompt_tokens: int
    max_tokens: int | None
    choices: Sequence[Choice]
    stream: bool
    include_usage: bool

    @property
    def completion_tokens(self) -> int:
        """What all answers together are billed with."""
        return sum(choice.completion_tokens for choice in self.choices)

    @property
    def usage(self) -> dict[str, int | float]:
        """The ``usage`` of the answer."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def plan_chat(body: Mapping[str, Any], model: ModelSettings, wanted: int | None, call_id: str) -> ChatPlan:
    """Check a request and decide its answers.

    Args:
        body: the request.
        wanted: desired length of an answer in tokens; None for where the text ends by itself.
        call_id: makes the ids of tool calls.

    Raises:
        CallError: 400, naming the field.
    """
    messages = _messages(body, model)
    tools = _tools(body)
    prompt_tokens = count_messages(messages, model.tokens_per_image or 0)
    if tools:
        prompt_tokens += count_json(tools)
    if body.get("response_format"):
        prompt_tokens += count_json(body["response_format"])
    max_tokens = _integer(body, "max_tokens", 1)
    if max_tokens is None:
        max_tokens = _integer(body, "max_completion_tokens", 1)
    n = _integer(body, "n", 1, _MAX_CHOICES) or 1
    limit = _MAX_OUTPUT_TOKENS if max_tokens is None or model.ignores_max_tokens else max_tokens
    tool = _tool_to_call(body, tools, messages[-1])
    if tool is not None:
        choices = [_tool_choice(tool, limit, f"call_{call_id}_{i}") for i in range(n)]
    else:
        question, stops = _last_user_text(messages), _stops(body)
        choices = [_text_choice(question, i, wanted, limit, stops) for i in range(n)]
    include_usage = _include_usage(body, model)
    return ChatPlan(prompt_tokens, max_tokens, choices, body.get("stream") is True, include_usage)


def answer_body(plan: ChatPlan, answer_id: str, created_s: int, model: str) -> dict[str, Any]:
    """The plan as a complete answer, with its usage."""
    return {
        "id": answer_id,
        "object": "chat.completion",
        "created": created_s,
        "model": model,
        "choices": [_choice_body(i, choice) for i, choice in enumerate(plan.choices)],
        "usage": plan.usage,
    }


def stream_events(plan: ChatPlan, head: Mapping[str, Any], tokens_per_chunk: int) -> Iterator[tuple[bytes, int]]:
    """The plan as a stream's events, without usage and end mark: (the event's bytes, tokens made for it)."""
    for index, choice in enumerate(plan.choices):
        for delta, tokens in _deltas(choice, tokens_per_chunk):
            yield _event(head, [{"index": index, "delta": delta, "finish_reason": None}]), tokens
        end = {"index": index, "delta": {}, "finish_reason": choice.finish_reason}
        yield _event(head, [end]), 0


def usage_event(head: Mapping[str, Any], usage: Mapping[str, int | float | str]) -> bytes:
    """The event with empty ``choices`` that carries the usage."""
    return b"data: " + orjson.dumps({**head, "choices": [], "usage": usage}) + b"\n\n"


def empty_event(head: Mapping[str, Any]) -> bytes:
    """An event that carries nothing."""
    return _event(head, [])


def _event(head: Mapping[str, Any], choices: list[dict[str, Any]]) -> bytes:
    return b"data: " + orjson.dumps({**head, "choices": choices}) + b"\n\n"


def _deltas(choice: Choice, tokens_per_chunk: int) -> Iterator[tuple[dict[str, Any], int]]:
    if choice.tool_name is not None:
        function = {"name": choice.tool_name, "arguments": ""}
        call = {"index": 0, "id": choice.call_id, "type": "function", "function": function}
        yield {"role": "assistant", "content": None, "tool_calls": [call]}, choice.head_tokens
    for start in range(0, len(choice.tokens), tokens_per_chunk):
        piece = choice.tokens[start : start + tokens_per_chunk]
        text = "".join(piece)
        if choice.tool_name is not None:
            yield {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}, len(piece)
        elif start == 0:
            yield {"role": "assistant", "content": text}, len(piece)
        else:
            yield {"content": text}, len(piece)


def _choice_body(index: int, choice: Choice) -> dict[str, Any]:
    text = "".join(choice.tokens)
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if choice.tool_name is not None:
        function = {"name": choice.tool_name, "arguments": text}
        message["content"] = None
        message["tool_calls"] = [{"id": choice.call_id, "type": "function", "function": function}]
    return {"index": index, "message": message, "finish_reason": choice.finish_reason}


def _text_choice(question: str, index: int, wanted: int | None, limit: int, stops: list[str]) -> Choice:
    wanted = None if wanted is None else min(wanted, _MAX_OUTPUT_TOKENS)
    tokens = reply_tokens(question, index, wanted)
    if stops:
        text = "".join(tokens)
        ends = [at for at in map(text.find, stops) if at >= 0]
        tokens = split_tokens(text[: min(ends)]) if ends else tokens
    if len(tokens) > limit:
        return Choice(tokens[:limit], "length")
    return Choice(tokens, "stop")


def _tool_choice(tool: Mapping[str, Any], limit: int, call_id: str) -> Choice:
    function = tool["function"]
    name = function["name"]
    arguments = orjson.dumps(example_of(function.get("parameters") or {"type": "object"})).decode()
    tokens = split_tokens(arguments)
    head = count_tokens(name)
    if head + len(tokens) > limit:
        return Choice(tokens[: max(0, limit - head)], "length", name, call_id, min(head, limit))
    return Choice(tokens, "tool_calls", name, call_id, head)


def _messages(body: Mapping[str, Any], model: ModelSettings) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid_parameter("messages must be a list with at least one message.")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise invalid_parameter("messages: each must be an object with a known role.")
        content = message.get("content")
        if isinstance(content, list):
            _check_parts(content, model)
        elif content is not None and not isinstance(content, str):
            raise invalid_parameter("messages: content must be text or a list of parts.")
    return messages


def _check_parts(parts: list[Any], model: ModelSettings) -> None:
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "image_url":
            if model.tokens_per_image is None:
                raise invalid_parameter("messages: image_url is not supported by this endpoint.")
        elif kind != "text" or not isinstance(part.get("text"), str):
            raise invalid_parameter("messages: a part must be text or image_url.")


def _tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise invalid_parameter("tools must be a list.")
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise invalid_parameter("tools: each must be a function with a name.")
    return tools


def _tool_to_call(
    body: Mapping[str, Any], tools: Sequence[Mapping[str, Any]], last: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    wanted = body.get("tool_choice", "auto")
    if isinstance(wanted, dict):
        name = (wanted.get("function") or {}).get("name")
        named = next((tool for tool in tools if tool["function"]["name"] == name), None)
        if named is None:
            raise invalid_parameter("tool_choice names a function that is not in tools.")
        return named
    if not tools or wanted == "none":
        return None
    return tools[0] if wanted == "required" or last["role"] == "user" else None


def _last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    content = next((m.get("content") for m in reversed(messages) if m["role"] == "user"), None)
    if isinstance(content, list):
        return " ".join(part["text"] for part in content if part["type"] == "text")
    return content if isinstance(content, str) else ""


def _stops(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(isinstance(item, str) for item in stops):
        raise invalid_parameter("stop must be text or a list of texts.")
    return [item for item in stops if item]


def _integer(body: Mapping[str, Any], field: str, least: int, most: int | None = None) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise invalid_parameter(f"{field} must be an integer of at least {least}.")
    if most is not None and value > most:
        raise invalid_parameter(f"{field} must be at most {most}.")
    return value


def _include_usage(body: Mapping[str, Any], model: ModelSettings) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not model.accepts_stream_options:
        raise invalid_parameter("stream_options is not supported by this endpoint.")
    if not isinstance(options, dict) or body.get("stream") is not True:
        raise invalid_parameter("stream_options must be an object and is only allowed when stream is true.")
    return options.get("include_usage") is True
