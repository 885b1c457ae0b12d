"""API keys: what they look like, how they are kept, what scopes they carry.

A key reads ``sg_<role>_<id>_<secret>``. Only SHA-256 of the whole key is kept: the secret has 256 random
bits, so a slow hash would add nothing.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from enum import StrEnum
from fnmatch import fnmatchcase

from core.errors import Forbidden, Unauthorized
from core.scope import Chain, Scope, ordered_chain
from core.values import value

_OURS = re.compile(r"sg_(?:agent|admin)_([0-9A-Za-z]{12})_[0-9A-Za-z]{32,}")


class KeyRole(StrEnum):
    """An agent key calls models; an admin key manages and reads. Neither works for the other."""

    AGENT = "agent"
    ADMIN = "admin"


@value
class ApiKey:
    """A key at rest.

    id: public part, shown in lists and logs.
    digest: hex SHA-256 of the whole key.
    scopes: what every call with this key is charged to, unless the caller names another that it may.
    may_name: patterns such as ``agent:*`` or ``team:ml-*`` that a caller may name itself.
    source: where it is managed: ``api``, ``env`` or ``start``.
    """

    id: str
    name: str
    role: KeyRole
    digest: str
    scopes: tuple[Scope, ...] = ()
    may_name: tuple[Scope, ...] = ()
    created_ms: int = 0
    source: str = "api"

    def may(self, scope: Scope) -> bool:
        """True if a caller with this key may name the scope: it is bound to it, or a pattern allows it."""
        if scope in self.scopes:
            return True
        return any(p.type == scope.type and fnmatchcase(scope.key, p.key) for p in self.may_name)


def new_key_text(role: KeyRole) -> tuple[str, str]:
    """A fresh key: (id, the whole key text)."""
    key_id = secrets.token_hex(6)
    return key_id, f"sg_{role.value}_{key_id}_{secrets.token_hex(32)}"


def digest_of(key_text: str) -> str:
    """Hex SHA-256 of a key's text."""
    return hashlib.sha256(key_text.encode()).hexdigest()


def key_id_of(key_text: str) -> str:
    """The public id of a key: in its text, or made from it where the text was chosen outside (an admin key from the
    environment).
    """
    ours = _OURS.fullmatch(key_text)
    return ours[1] if ours else "x" + digest_of(key_text)[:12]


class KeyRing:
    """The keys in force; replaced as a whole or one by one when the snapshot changes.

    changes: counts them, so that what was worked out from the keys can be kept until the next.
    """

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self.changes = 0
        self._by_id: dict[str, ApiKey] = {}
        self._by_digest: dict[str, ApiKey] = {}
        for key in keys:
            self.put(key)

    def put(self, key: ApiKey) -> None:
        """Add or replace a key."""
        self.remove(key.id)
        self._by_id[key.id] = self._by_digest[key.digest] = key

    def remove(self, key_id: str) -> None:
        """Forget a key, if it is there."""
        self.changes += 1
        key = self._by_id.pop(key_id, None)
        if key is not None:
            self._by_digest.pop(key.digest, None)

    def get(self, key_id: str) -> ApiKey | None:
        """The key of this id; None: there is none."""
        return self._by_id.get(key_id)

    def all(self) -> list[ApiKey]:
        """Every key, by id."""
        return [self._by_id[key_id] for key_id in sorted(self._by_id)]

    def authenticate(self, key_text: str | None, role: KeyRole) -> ApiKey:
        """The key that this text is, if it may act in this role.

        Raises:
            Unauthorized: no key, or not known.
            Forbidden: a key of the other role.
        """
        if not key_text:
            raise Unauthorized("an API key is needed: send it as 'Authorization: Bearer <key>'")
        # Found by its digest: how long that takes tells a guesser about digests, and nobody can choose those.
        key = self._by_digest.get(digest_of(key_text))
        if key is None:
            raise Unauthorized("the API key is not known")
        if key.role is not role:
            raise Forbidden(f"this key has the role {key.role.value}; this call needs the role {role.value}")
        return key


def scope_chain(key: ApiKey, named: Mapping[str, Scope]) -> Chain:
    """The chain of a call: the key's own scopes, replaced per type by what the caller names and may name.

    Raises:
        Forbidden: the caller names a scope that the key does not allow.
    """
    by_type = {scope.type: scope for scope in key.scopes}
    for scope in named.values():
        if not key.may(scope):
            raise Forbidden(f"this key may not spend as {scope}")
        by_type[scope.type] = scope
    by_type["key"] = Scope("key", key.id)
    return ordered_chain(by_type)
