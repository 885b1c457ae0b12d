"""Scopes: whom a dollar is spent for.

A scope is a (type, key) pair. A request carries a chain of them, at most one per type, narrow before wide.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from core.errors import InvalidInput

#: Types of the product, narrow to wide. A customer's own types come after `tag`.
SCOPE_TYPES = ("session", "task", "agent", "user", "key", "model", "tag", "team", "org")

WILDCARD = "*"
_TYPE = re.compile(r"[a-z][a-z0-9_]{0,31}")
_MAX_KEY_CHARS = 256


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """A (type, key) pair such as ``agent:research-bot``; the key is free text without control characters."""

    type: str
    key: str

    def __str__(self) -> str:
        return f"{self.type}:{self.key}"

    @property
    def is_wildcard(self) -> bool:
        """True for ``type:*``, which stands for each key of the type separately."""
        return self.key == WILDCARD


def parse_scope(field: str, scope_type: object, key: object, *, wildcard: bool = False) -> Scope:
    """Check a type and a key as they come from outside.

    Raises:
        InvalidInput: names `field` and the rule.
    """
    if not isinstance(scope_type, str) or not _TYPE.fullmatch(scope_type):
        raise InvalidInput(f"{field}Type", "must be lower-case letters, digits or _, 1 to 32, such as agent")
    if not isinstance(key, str) or not key or len(key) > _MAX_KEY_CHARS:
        raise InvalidInput(f"{field}Key", f"must be text of 1 to {_MAX_KEY_CHARS} characters")
    if not key.isprintable():
        raise InvalidInput(f"{field}Key", "must not hold control characters")
    if key == WILDCARD and not wildcard:
        raise InvalidInput(f"{field}Key", "must name one key; * is for budgets and for what a key may name")
    return Scope(scope_type, key)


def parse_scope_text(field: str, text: str, *, wildcard: bool = False) -> Scope:
    """``"type:key"`` to a Scope.

    Raises:
        InvalidInput: names `field` and the rule.
    """
    scope_type, separator, key = text.partition(":")
    if not separator:
        raise InvalidInput(field, "must look like type:key, for instance agent:research-bot")
    return parse_scope(field, scope_type.strip(), key.strip(), wildcard=wildcard)


class Chain(tuple[Scope, ...]):
    """Who pays for a call, narrow to wide.

    names: as text, ``agent:research-bot``. text: all of them, one a line. keys: by type.
    """

    names: list[str]
    text: str
    keys: dict[str, str]

    def __new__(cls, scopes: Iterable[Scope]) -> Self:
        """A chain of these scopes, in this order."""
        self = super().__new__(cls, scopes)
        self.names = [str(scope) for scope in self]
        self.text = "\n".join(self.names)
        self.keys = {scope.type: scope.key for scope in self}
        return self


def ordered_chain(by_type: Mapping[str, Scope]) -> Chain:
    """One scope per type, narrow to wide; a customer's own types last, by name."""
    known = [by_type[t] for t in SCOPE_TYPES if t in by_type]
    own = [by_type[t] for t in sorted(by_type) if t not in SCOPE_TYPES]
    return Chain((*known, *own))
