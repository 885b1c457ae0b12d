"""The hot routes in FastAPI's documentation, which does not serve them."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_CHAT_EXAMPLE: dict[str, Any] = {
    "model": "databricks-dbrx-instruct",
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 100,
}
_HOT: dict[str, tuple[str, dict[str, Any]]] = {
    "/agent/chat": (
        "A prompt, who pays for it, and what it cost",
        {"prompt": "Hello", "scopeType": "agent", "scopeKey": "demo", "maxTokens": 100},
    ),
    "/v1/chat/completions": ("OpenAI's chat completions, streaming included", _CHAT_EXAMPLE),
    "/v1/embeddings": ("OpenAI's embeddings", {"model": "databricks-gte-large-en", "input": "Hello"}),
    "/serving-endpoints/chat/completions": ("Databricks' OpenAI-compatible path", _CHAT_EXAMPLE),
    "/serving-endpoints/{name}/invocations": (
        "Databricks' model serving; chat or embeddings by the body",
        {"messages": _CHAT_EXAMPLE["messages"], "max_tokens": 100},
    ),
}
_ANSWERS = {
    "200": "Answered; headers tell budget, model and cost",
    "400": "The request breaks a rule; the error names the field",
    "401": "No key, or not known",
    "402": "A budget is used up; not to be retried",
    "429": "Calls in flight hold the rest of a budget, or the upstream limits; Retry-After",
    "503": "The store or every upstream is away; Retry-After",
}


def describe_hot_routes(app: FastAPI) -> None:
    """Add the hot routes to the application's OpenAPI document."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
            for path, (summary, example) in _HOT.items():
                schema["paths"][path] = {"post": _operation(path, summary, example)}
            components = schema.setdefault("components", {})
            components.setdefault("securitySchemes", {})["key"] = {"type": "http", "scheme": "bearer"}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _operation(path: str, summary: str, example: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "tags": ["calls"],
        "security": [{"key": []}],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"type": "object"}, "example": example}},
        },
        "responses": {status: {"description": text} for status, text in _ANSWERS.items()},
    }
    if "{name}" in path:
        operation["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    return operation
