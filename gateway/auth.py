"""Key -> scope chain. Every call needs a key; a caller names scopes by headers, if its key lets it."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from core.clock import Clock
from core.errors import Forbidden, InvalidInput, Unauthorized
from core.keys import ApiKey, KeyRing, KeyRole, scope_chain
from core.scope import Scope, parse_scope, parse_scope_text
from gateway.http import Headers

_REFRESH_EVERY_S = 0.05
#: Set by the gateway itself, never by a caller.
_RESERVED_TYPES = frozenset({"key", "model"})


def key_text(headers: Headers) -> str | None:
    """The key of a request: ``Authorization: Bearer``, or ``X-Api-Key`` as Anthropic's clients send it."""
    authorization = headers.get("authorization", "")
    scheme, _, credential = authorization.partition(" ")
    if scheme.lower() == "bearer" and credential:
        return credential.strip()
    return headers.get("x-api-key")


@dataclass(slots=True)
class Authenticator:
    """Knows who calls.

    refresh: reads the keys again; asked when a key is not known, for another worker may just have made it. All who
        ask meanwhile share the next reading, and it is not read more often, so that guessing keys does not load the
        store.
    """

    keys: KeyRing
    clock: Clock
    refresh: Callable[[], Awaitable[None]]
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _refreshed_s: float = float("-inf")

    def known(self, headers: Headers) -> ApiKey | None:
        """The agent key of a request, if it is known here.

        Raises:
            Forbidden: it is a key of the other role.
        """
        try:
            return self.keys.authenticate(key_text(headers), KeyRole.AGENT)
        except Unauthorized:
            return None

    async def authenticate(self, headers: Headers) -> ApiKey:
        """The agent key of a request.

        Raises:
            Unauthorized, Forbidden: see `core.keys.KeyRing.authenticate`.
            StoreUnavailable: the key is not known here, and the store can't be asked.
        """
        text = key_text(headers)
        try:
            return self.keys.authenticate(text, KeyRole.AGENT)
        except Unauthorized:
            if text is None:
                raise
        came_s = self.clock.monotonic_s()
        async with self._asking:
            if self._refreshed_s < came_s:
                await asyncio.sleep(max(0.0, self._refreshed_s + _REFRESH_EVERY_S - self.clock.monotonic_s()))
                self._refreshed_s = self.clock.monotonic_s()
                await self.refresh()
        return self.keys.authenticate(text, KeyRole.AGENT)


def named_scopes(headers: Headers) -> dict[str, Scope]:
    """Scopes that the caller names: ``X-Budget-Scope-Type`` and ``-Key``, or several in one
    ``X-Budget-Scopes: agent:a, team:b``.

    Raises:
        InvalidInput: malformed, or two of one type.
    """
    named: dict[str, Scope] = {}
    if "x-budget-scope-type" in headers or "x-budget-scope-key" in headers:
        scope_type, key = headers.get("x-budget-scope-type"), headers.get("x-budget-scope-key")
        add_named(named, parse_scope("X-Budget-Scope-", scope_type, key))
    for part in headers.get("x-budget-scopes", "").split(","):
        if part.strip():
            add_named(named, parse_scope_text("X-Budget-Scopes", part.strip()))
    return named


def add_named(named: dict[str, Scope], scope: Scope) -> None:
    """Add a scope that the caller names.

    Raises:
        InvalidInput: another scope of its type is named.
        Forbidden: a type that only the gateway sets.
    """
    if scope.type in _RESERVED_TYPES:
        raise Forbidden(f"a caller may not name a scope of type {scope.type}")
    if named.get(scope.type, scope) != scope:
        raise InvalidInput("scope", f"names two scopes of type {scope.type}")
    named[scope.type] = scope


def chain_of(key: ApiKey, named: dict[str, Scope]) -> tuple[Scope, ...]:
    """Who pays for a call with this key and these named scopes.

    Raises:
        Forbidden: the key may not name one of them.
    """
    return scope_chain(key, named)
