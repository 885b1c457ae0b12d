"""Bodies in, answers out: raw JSON with a limit of size, money printed from integers, entity tags."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from core.clock import iso_utc
from core.errors import BodyTooLarge, InvalidInput
from core.money import format_usd
from dashboard.errors import OrjsonResponse

MAX_BODY_BYTES = 1 << 20


async def read_json(request: Request) -> object:
    """The request's body as JSON; `None` in it stays None, money may be text or number.

    Raises:
        BodyTooLarge: over `MAX_BODY_BYTES`; nothing beyond them is read.
        InvalidInput: it is not JSON.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"the body is over {MAX_BODY_BYTES} bytes")
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput("body", f"must be JSON: {error.msg} (line {error.lineno})") from None
    return parsed


def answer(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer."""
    return OrjsonResponse(content, status_code=status, headers=headers)


def usd(amount_nano: int) -> orjson.Fragment:
    """Nano-dollars as an exact JSON number of dollars."""
    return orjson.Fragment(format_usd(amount_nano))


def usd_or_none(amount_nano: int | None) -> orjson.Fragment | None:
    """The same; None stays None."""
    return None if amount_nano is None else usd(amount_nano)


def iso_or_none(at_ms: int | None) -> str | None:
    """Epoch milliseconds as ISO 8601 in UTC; None stays None."""
    return None if at_ms is None else iso_utc(at_ms)


def entity_tag(revision: int) -> str:
    """A revision as an HTTP entity tag."""
    return f'"{revision}"'


def parse_if_match(header: str | None) -> frozenset[str] | None:
    """The revisions that ``If-Match`` allows, as text; None: any (no header, or ``*``)."""
    if header is None or header.strip() == "*":
        return None
    return frozenset(tag.strip().removeprefix("W/").strip('"') for tag in header.split(","))


def documented_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads its body raw, so that the docs still show what it takes."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _inlined(schema, definitions)}}
    return {"requestBody": {"required": True, "content": content}}


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema without references: in an OpenAPI document ``#/$defs`` would point nowhere."""
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    reference = node.get("$ref")
    if isinstance(reference, str):
        return _inlined(definitions[reference.rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in node.items()}
