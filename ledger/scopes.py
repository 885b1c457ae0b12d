"""Chains of scopes as the ledger sums by them."""

import re
from functools import lru_cache

import orjson

#: Types of scopes with a key of their own for nearly every call: no sums are kept of them.
UNSUMMED = ("session", "task")

_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")


@lru_cache(maxsize=65_536)
def summed_path(scopes: tuple[str, ...]) -> str:
    """A chain of ``type:key`` without `UNSUMMED`, one a line: keys hold no line breaks."""
    return "\n".join([s for s in scopes if not s.startswith(_UNSUMMED)])


_UNSUMMED = tuple(f"{scope_type}:" for scope_type in UNSUMMED)


@lru_cache(maxsize=65_536)
def scopes_of(tags: str) -> tuple[str, ...]:
    """The scopes among a record's Tags (JSON): those whose name can be a type of scope."""
    found = orjson.loads(tags) if tags else {}
    return tuple(f"{name}:{key}" for name, key in found.items() if _TYPE.fullmatch(name) and "\n" not in str(key))


def keys_of(path: str) -> list[tuple[str, str]]:
    """Types of scopes in a path, and the first key of each."""
    return list(first_keys(tuple(path.split("\n"))).items()) if path else []


@lru_cache(maxsize=65_536)
def first_keys(scopes: tuple[str, ...]) -> dict[str, str]:
    """The first key of each type of scope in a chain."""
    found: dict[str, str] = {}
    for scope in scopes:
        kind, _, key = scope.partition(":")
        found.setdefault(kind, key)
    return found
