"""API keys as JSON: the stored form of `core.keys.ApiKey`. The key's text is never part of it, only its digest."""

import json

from core.keys import ApiKey, KeyRole
from core.scope import Scope, parse_scope_text

#: Kind of the documents that hold keys.
KEY_KIND = "key"


def dump_key(key: ApiKey) -> bytes:
    """The stored form of a key."""
    data = {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "digest": key.digest,
        "scopes": [str(scope) for scope in key.scopes],
        "mayName": [str(pattern) for pattern in key.may_name],
        "createdMs": key.created_ms,
        "source": key.source,
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()


def load_key(text: bytes) -> ApiKey:
    """The key behind `dump_key`'s text.

    Raises:
        KeyError, ValueError, InvalidInput: the text was not written by `dump_key`.
    """
    data = json.loads(text)
    return ApiKey(
        id=data["id"],
        name=data["name"],
        role=KeyRole(data["role"]),
        digest=data["digest"],
        scopes=_scopes("scopes", data["scopes"]),
        may_name=_scopes("mayName", data["mayName"]),
        created_ms=data["createdMs"],
        source=data["source"],
    )


def _scopes(field: str, texts: list[str]) -> tuple[Scope, ...]:
    return tuple(parse_scope_text(field, text, wildcard=True) for text in texts)
