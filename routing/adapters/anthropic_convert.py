"""OpenAI's chat shape to Anthropic's Messages API and back. Pure.

Nothing is left out silently that could change an answer: a field that has no counterpart is refused by name, unless
its value asks for nothing (``n: 1``, ``presence_penalty: 0``).
Source: https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/api/messages-streaming
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

from routing.errors import FailureKind, UpstreamError
from routing.model import Model

_CONVERTED = frozenset(
    {
        "messages", "max_tokens", "max_completion_tokens", "stop", "temperature", "top_p", "top_k", "tools",
        "tool_choice", "parallel_tool_calls", "user",
    }
)  # fmt: skip
#: Ours, or without any effect on an answer.
_IGNORED = frozenset({"model", "stream", "stream_options", "store", "metadata", "service_tier"})
#: Values that ask for nothing beyond what Anthropic does anyway.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
}
_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,(.+)", re.DOTALL)
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def to_anthropic(body: Mapping[str, Any], model: Model) -> dict[str, Any]:
    """An OpenAI-shaped chat request as a Messages request, without `stream`.

    Raises:
        UpstreamError: REJECTED, naming the field that can't be converted.
    """
    _refuse_unsupported(body)
    system, messages = _messages(body.get("messages"))
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or model.default_max_tokens
    request: dict[str, Any] = {"model": model.upstream_name, "max_tokens": limit, "messages": messages}
    if system:
        request["system"] = "\n\n".join(system)
    stop = body.get("stop")
    if stop:
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            request[name] = body[name]
    if body.get("user"):
        request["metadata"] = {"user_id": body["user"]}
    if body.get("tools"):
        request["tools"] = [_tool(number, tool) for number, tool in enumerate(body["tools"])]
        choice = _tool_choice(body)
        if choice:
            request["tool_choice"] = choice
    return request


def from_anthropic(message: Mapping[str, Any], created_s: int) -> dict[str, Any]:
    """A Messages answer as a chat completion. created_s: epoch seconds; Anthropic gives none.

    Raises:
        UpstreamError: BROKEN, it has no content.
    """
    blocks = message.get("content")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise UpstreamError(FailureKind.BROKEN, "the answer has no content")
    text = "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
    calls = [
        _tool_call(block.get("id"), block.get("name"), orjson.dumps(block.get("input") or {}).decode())
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    said: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if calls:
        said["tool_calls"] = calls
    choice = {"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason(message)}
    answer: dict[str, Any] = {
        "id": message.get("id"),
        "object": "chat.completion",
        "created": created_s,
        "model": message.get("model"),
        "choices": [choice],
    }
    usage = convert_usage(message.get("usage"))
    return answer if usage is None else answer | {"usage": usage}


def finish_reason(holder: Mapping[str, Any]) -> str:
    """OpenAI's word for a `stop_reason`."""
    return _FINISH.get(str(holder.get("stop_reason")), "stop")


def convert_usage(usage: object) -> dict[str, Any] | None:
    """Anthropic's counts in OpenAI's shape; None if they are no counts.

    Anthropic's `input_tokens` excludes what was read from and written to its cache, OpenAI's includes it.
    """
    if not isinstance(usage, Mapping):
        return None
    read = usage.get("cache_read_input_tokens") or 0
    written = usage.get("cache_creation_input_tokens") or 0
    sent: Any = usage.get("input_tokens")
    generated: Any = usage.get("output_tokens")
    if any(isinstance(c, bool) or not isinstance(c, int) for c in (sent, generated, read, written)):
        return None
    prompt = sent + read + written
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": written},
    }


def _rejected(field: str, rule: str) -> UpstreamError:
    return UpstreamError(FailureKind.REJECTED, f"{field} {rule}")


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if value is None or name in _CONVERTED or name in _IGNORED:
            continue
        if value not in _NEUTRAL.get(name, ()):
            raise _rejected(name, "is not supported by Anthropic's models")
    temperature = body.get("temperature")
    if isinstance(temperature, int | float) and temperature > 1:
        raise _rejected("temperature", "must be at most 1 for Anthropic's models")


def _messages(messages: object) -> tuple[list[str], list[dict[str, Any]]]:
    """System texts, and the rest with neighbours of one role joined, as tool results must be."""
    system: list[str] = []
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        where = f"messages[{number}]"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role in ("system", "developer"):
            system.append(_text(f"{where}.content", message.get("content")))
            continue
        if role not in ("user", "assistant", "tool"):
            raise _rejected(f"{where}.role", "is not supported by Anthropic's models")
        speaker = "assistant" if role == "assistant" else "user"
        blocks = _blocks(where, role, message)
        if turns and turns[-1]["role"] == speaker:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": speaker, "content": blocks})
    if not turns:
        raise _rejected("messages", "must hold at least one message that is not a system message")
    return system, turns


def _blocks(where: str, role: str, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    if role == "tool":
        content = _text(f"{where}.content", message.get("content"))
        return [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": content}]
    blocks = _content(f"{where}.content", message.get("content"))
    calls = message.get("tool_calls") or ()
    return blocks + [_tool_use(f"{where}.tool_calls[{n}]", call) for n, call in enumerate(calls)]


def _content(where: str, content: object) -> list[dict[str, Any]]:
    """Content as blocks; empty texts are left out, which Anthropic refuses."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise _rejected(where, "must be text or a list of parts")
    blocks = [_part(f"{where}[{number}]", part) for number, part in enumerate(content)]
    return [block for block in blocks if block.get("text") != ""]


def _part(where: str, part: object) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind in ("text", "refusal"):
        return {"type": "text", "text": part.get(kind)}
    if isinstance(part, Mapping) and kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else None
        if not isinstance(url, str):
            raise _rejected(f"{where}.image_url.url", "must be text")
        inline = _DATA_URL.fullmatch(url)
        if inline:
            source = {"type": "base64", "media_type": inline[1], "data": inline[2]}
        else:
            source = {"type": "url", "url": url}
        return {"type": "image", "source": source}
    raise _rejected(where, f"is of type {kind}, which is not supported by Anthropic's models")


def _text(where: str, content: object) -> str:
    blocks = _content(where, content)
    if any(block["type"] != "text" for block in blocks):
        raise _rejected(where, "must be text only")
    return "\n".join(str(block["text"]) for block in blocks)


def _tool_use(where: str, call: object) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping):
        raise _rejected(where, "must be a function call")
    try:
        arguments = orjson.loads(function.get("arguments") or "{}")
    except orjson.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        raise _rejected(f"{where}.function.arguments", "must be a JSON object")
    return {"type": "tool_use", "id": call.get("id"), "name": function.get("name"), "input": arguments}


def _tool(number: int, tool: object) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping):
        raise _rejected(f"tools[{number}]", "must be a function")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    converted = {"name": function.get("name"), "input_schema": schema}
    return converted | ({"description": function["description"]} if function.get("description") else {})


def _tool_choice(body: Mapping[str, Any]) -> dict[str, Any] | None:
    choice = body.get("tool_choice")
    serial = body.get("parallel_tool_calls") is False
    if choice is None and not serial:
        return None
    words = {None: "auto", "auto": "auto", "required": "any", "none": "none"}
    if isinstance(choice, Mapping):
        function = choice.get("function")
        if choice.get("type") != "function" or not isinstance(function, Mapping):
            raise _rejected("tool_choice", "must be auto, required, none or a function")
        converted: dict[str, Any] = {"type": "tool", "name": function.get("name")}
    elif isinstance(choice, str | None) and choice in words:
        converted = {"type": words[choice]}
    else:
        raise _rejected("tool_choice", "must be auto, required, none or a function")
    if serial and converted["type"] != "none":
        converted["disable_parallel_tool_use"] = True
    return converted


def _tool_call(call_id: object, name: object, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
