"""The shapes that callers speak. Each surface reads its request into the call's pieces and writes answers and
errors in its own envelope; what happens in between is the same for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from core.errors import InvalidInput
from core.money import format_usd
from core.scope import Scope, parse_scope
from gateway.call import AccountStanding, Answered, Operation
from gateway.errors import Problem
from telemetry.usage import Tokens


@dataclass(slots=True)
class Parsed:
    """What a surface read. body: OpenAI-shaped, without model and stream. scope: who pays, if the body says so."""

    operation: Operation
    asked: str | None
    body: dict[str, Any]
    stream: bool
    wants_usage: bool
    scope: Scope | None = None


class Surface(Protocol):
    """A family of request and answer shapes."""

    name: str

    def parse(self, data: dict[str, Any]) -> Parsed:
        """Read a request; `data` is taken over.

        Raises:
            InvalidInput: names the field and the rule.
        """
        ...

    def answer(self, answered: Answered, latency_s: float) -> bytes:
        """The body of a complete answer."""
        ...

    def problem(self, problem: Problem) -> bytes:
        """The body of an error."""
        ...


def money(amount_nano: int) -> orjson.Fragment:
    """Nano-dollars as an exact JSON number."""
    return orjson.Fragment(format_usd(amount_nano).encode())


def read_openai(data: dict[str, Any], operation: Operation, asked: object) -> Parsed:
    """An OpenAI-shaped request; `data` is taken over.

    Raises:
        InvalidInput: names the field and the rule.
    """
    if asked is not None and (not isinstance(asked, str) or not asked):
        raise InvalidInput("model", "must be the name of a model")
    stream = data.pop("stream", None)
    if stream not in (None, True, False):
        raise InvalidInput("stream", "must be true or false")
    options = data.pop("stream_options", None)
    if options is not None and not isinstance(options, Mapping):
        raise InvalidInput("stream_options", "must be an object")
    if stream and operation == "embeddings":
        raise InvalidInput("stream", "must be false for embeddings")
    wants_usage = bool(options and options.get("include_usage"))
    return Parsed(operation, asked, data, bool(stream), wants_usage)


class OpenAISurface:
    """``/v1/chat/completions`` and ``/v1/embeddings``."""

    name = "openai"

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def parse(self, data: dict[str, Any]) -> Parsed:
        """Read an OpenAI request; the model is required, as OpenAI requires it."""
        asked = data.pop("model", None)
        if asked is None:
            raise InvalidInput("model", "is required")
        return read_openai(data, self._operation, asked)

    def answer(self, answered: Answered, latency_s: float) -> bytes:
        """The upstream's answer, which has this shape already."""
        answer = answered.answer
        assert answer is not None, "a stream is not answered at once"
        return answer.raw or orjson.dumps(answer.body)

    def problem(self, problem: Problem) -> bytes:
        """``{"error": {"message", "type", "param", "code"}}``."""
        error = {"message": problem.message, "type": problem.type, "param": problem.param, "code": problem.code}
        return orjson.dumps({"error": error | problem.facts})


class DatabricksSurface(OpenAISurface):
    """``/serving-endpoints/chat/completions`` (model in the body) and ``/serving-endpoints/{name}/invocations``."""

    name = "databricks"

    def __init__(self, endpoint: str | None = None) -> None:
        super().__init__("chat")
        self._endpoint = endpoint

    def parse(self, data: dict[str, Any]) -> Parsed:
        """Read a Databricks request; a body with ``input`` is for embeddings, as their endpoints tell it."""
        operation: Operation = "embeddings" if "input" in data and "messages" not in data else "chat"
        in_body = data.pop("model", None)
        asked = self._endpoint or in_body
        if asked is None:
            raise InvalidInput("model", "is required")
        for field in ("client_request_id", "usage_context"):
            data.pop(field, None)  # ours go upstream: spend is reconciled by them
        return read_openai(data, operation, asked)

    def problem(self, problem: Problem) -> bytes:
        """Databricks' ``{"error_code", "message"}``; a budget's refusal has its ``error`` object beside them."""
        body: dict[str, Any] = {"error_code": _DATABRICKS_CODES.get(problem.status, "INTERNAL_ERROR")}
        if problem.code.startswith(("budget", "no_budget")):
            body["error_code"] = problem.code.upper()
        body["message"] = problem.message
        body["error"] = {"type": problem.type, "code": problem.code, "message": problem.message} | problem.facts
        return orjson.dumps(body)


_DATABRICKS_CODES = {
    400: "INVALID_PARAMETER_VALUE",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    408: "DEADLINE_EXCEEDED",
    413: "MAX_REQUEST_SIZE_EXCEEDED",
    415: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

_AGENT_FIELDS = frozenset(
    {"prompt", "messages", "scopeType", "scopeKey", "modelId", "tools", "toolChoice", "maxTokens", "temperature"}
    | {"stream"}
)


class AgentSurface:
    """``POST /agent/chat``: a prompt and who pays, a content and what it cost."""

    name = "agent"

    def parse(self, data: dict[str, Any]) -> Parsed:
        """Read ``{prompt | messages, scopeType, scopeKey, modelId?, tools?, toolChoice?, maxTokens?, temperature?,
        stream?}``.
        """
        for field in data:
            if field not in _AGENT_FIELDS:
                raise InvalidInput(field, f"is not known; known fields: {', '.join(sorted(_AGENT_FIELDS))}")
        scope = None
        if data.get("scopeType") is not None or data.get("scopeKey") is not None:
            scope = parse_scope("scope", data.get("scopeType"), data.get("scopeKey"))
        body: dict[str, Any] = {"messages": self._messages(data)}
        for ours, theirs in (("toolChoice", "tool_choice"), ("maxTokens", "max_tokens"), ("temperature",) * 2):
            if data.get(ours) is not None:
                body[theirs] = data[ours]
        if data.get("tools"):
            body["tools"] = [_tool(n, t) for n, t in enumerate(_list("tools", data["tools"]))]
        stream = data.get("stream", False)
        if not isinstance(stream, bool):
            raise InvalidInput("stream", "must be true or false")
        model = data.get("modelId")
        if model is not None and (not isinstance(model, str) or not model):
            raise InvalidInput("modelId", "must be the name of a model")
        return Parsed("chat", model, body, stream, True, scope)

    def _messages(self, data: Mapping[str, Any]) -> list[Any]:
        prompt, messages = data.get("prompt"), data.get("messages")
        if (prompt is None) == (messages is None):
            raise InvalidInput("prompt", "or messages is required, and not both")
        if messages is not None:
            return _list("messages", messages)
        if not isinstance(prompt, str) or not prompt:
            raise InvalidInput("prompt", "must be text that is not empty")
        return [{"role": "user", "content": prompt}]

    def answer(self, answered: Answered, latency_s: float) -> bytes:
        """``{content, model, cost, latencyMs, requestId, state, remaining, usage, toolCalls, …}``; cost in dollars."""
        given = answered.answer.body if answered.answer else {}
        message = (given.get("choices") or [{}])[0].get("message") or {}
        body = {"content": message.get("content") or "", "toolCalls": message.get("tool_calls") or []}
        return orjson.dumps(body | agent_summary(answered, latency_s))

    def problem(self, problem: Problem) -> bytes:
        """``{"error": {"type", "code", "message", "field"?}}`` with the numbers of a refusal."""
        error: dict[str, Any] = {"type": problem.type, "code": problem.code, "message": problem.message}
        if problem.param:
            error["field"] = problem.param
        return orjson.dumps({"error": error | problem.facts})


def agent_summary(answered: Answered, latency_s: float) -> dict[str, Any]:
    """What `/agent/chat` says about a call besides its content."""
    standing = answered.standing
    return {
        "model": answered.attempt.model.name,
        "cost": money(answered.cost_nano),
        "latencyMs": round(latency_s * 1000),
        "requestId": answered.call.request_id,
        "state": standing.state.label,
        "remaining": money(remaining_nano(standing)),
        "usage": usage_numbers(answered.usage.tokens),
        "why": answered.attempt.why,
    }


def remaining_nano(standing: AccountStanding) -> int:
    """What is left to the limit."""
    return max(0, standing.terms.limit_nano - standing.spent_nano)


def usage_numbers(tokens: Tokens) -> dict[str, int]:
    """Tokens as callers of `/agent/chat` see them."""
    return {
        "inputTokens": tokens.all_input,
        "outputTokens": tokens.all_output,
        "totalTokens": tokens.all_input + tokens.all_output,
    }


def _list(field: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(field, "must be a list")
    return value


def _tool(number: int, tool: object) -> dict[str, Any]:
    """OpenAI's shape, or its short form ``{name, description?, parameters?}``."""
    if isinstance(tool, dict) and tool.get("type") == "function":
        return tool
    if isinstance(tool, dict) and isinstance(tool.get("name"), str):
        return {"type": "function", "function": tool}
    raise InvalidInput(f"tools[{number}]", "must be a function tool, or an object with a name")
