"""Key -> scope chain. Every call needs a key; a caller names scopes by headers, if its key lets it."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from core.clock import Clock
from core.errors import Forbidden, InvalidInput, Unauthorized
from core.keys import ApiKey, KeyRing, KeyRole, scope_chain
from core.scope import Chain, Scope, parse_scope, parse_scope_text
from gateway.http import Headers

_REFRESH_EVERY_S = 0.05
_SCOPE_HEADERS = ("x-budget-scope-type", "x-budget-scope-key", "x-budget-scopes")
#: Chains that are kept, and how long the headers may be that name them; the oldest goes first.
_MOST_CHAINS = 10_000
_LONGEST_KEPT = 512
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
    """Knows who calls, and who pays.

    refresh: reads the keys again; asked when a key is not known, for another worker may just have made it. All who
        ask meanwhile share the next reading, and it is not read more often, so that guessing keys does not load the
        store.
    """

    keys: KeyRing
    clock: Clock
    refresh: Callable[[], Awaitable[None]]
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _refreshed_s: float = float("-inf")
    _chains: OrderedDict[tuple[str | Scope | None, ...], Chain] = field(default_factory=OrderedDict)
    _chains_of: int = -1

    def known(self, headers: Headers) -> ApiKey | None:
        """The agent key of a request, if it is known here.

        Raises:
            Forbidden: it is a key of the other role.
        """
        try:
            return self.keys.authenticate(key_text(headers), KeyRole.AGENT)
        except Unauthorized:
            return None

    def chain(self, key: ApiKey, headers: Headers, own: Scope | None) -> Chain:
        """Who pays for a call with this key. own: a scope that the request's body names.

        Raises:
            InvalidInput, Forbidden: what the caller names is malformed, or more than its key allows.
        """
        names = tuple([headers.get(name) for name in _SCOPE_HEADERS])
        asked = (key.id, *names, own)
        if self._chains_of != self.keys.changes:
            self._chains.clear()
            self._chains_of = self.keys.changes
        chain = self._chains.get(asked)
        if chain is None:
            named = named_scopes(*names)
            if own is not None:
                add_named(named, own)
            chain = scope_chain(key, named)
            if sum(len(name or "") for name in names) <= _LONGEST_KEPT:
                if len(self._chains) >= _MOST_CHAINS:
                    self._chains.popitem(last=False)
                self._chains[asked] = chain
        return chain

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


def named_scopes(scope_type: str | None, key: str | None, several: str | None) -> dict[str, Scope]:
    """Scopes that the caller names by headers: ``X-Budget-Scope-Type`` and ``-Key``, or several in one
    ``X-Budget-Scopes: agent:a, team:b``.

    Raises:
        InvalidInput: malformed, or two of one type.
    """
    named: dict[str, Scope] = {}
    if scope_type is not None or key is not None:
        add_named(named, parse_scope("X-Budget-Scope-", scope_type, key))
    for part in (several or "").split(","):
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
