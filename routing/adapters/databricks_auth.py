"""How Databricks is shown who calls: a personal access token, or OAuth machine to machine.

OAuth tokens are fetched with the client's credentials (``POST <host>/oidc/v1/token``, HTTP Basic) and live an hour.
One is renewed in the background when most of its life is over, while it still works; at most one renewal runs at a
time, however many calls wait for it. Failure policy: a call whose token can't be had was never sent, so it costs
nothing.
Source: https://docs.databricks.com/aws/en/dev-tools/auth/oauth-m2m
"""

import asyncio
import base64
import contextlib
import logging
from dataclasses import dataclass
from typing import Protocol

import orjson

from core.clock import Clock
from core.errors import ConfigError
from routing.adapters.http import HttpClient, HttpRequest, Reply
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint

log = logging.getLogger("spendgate.routing")

_FETCH_S = 10.0
_DEFAULT_LIFE_S = 3600.0
#: Renewed in the background from here on; no longer used from there on.
_RENEW_AT = 0.8
_STALE_AT = 0.98
_PAUSE_AFTER_FAILURE_S = 5.0
_PATH = "/oidc/v1/token"
_FORM = b"grant_type=client_credentials&scope=all-apis"


class Credentials(Protocol):
    """Bearer tokens for one endpoint."""

    def ready(self) -> str | None:
        """A token that should work, if there is one now: the usual case, for which nobody waits."""
        ...

    async def bearer(self) -> str:
        """A token that should work.

        Raises:
            UpstreamError: NOT_SENT, UNAVAILABLE or UNAUTHORIZED: none can be had.
        """
        ...

    def refused(self, token: str) -> bool:
        """Take note that the provider answered 401 to this token; True if `bearer` will give another."""
        ...

    async def close(self) -> None:
        """Stop background work."""
        ...


class AccessToken:
    """A token that never changes."""

    def __init__(self, token: str) -> None:
        self._token = token

    def ready(self) -> str | None:
        """The token."""
        return self._token

    async def bearer(self) -> str:
        """The token."""
        return self._token

    def refused(self, token: str) -> bool:
        """There is no other."""
        return False

    async def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True, slots=True)
class _Token:
    """Times are of the monotonic clock."""

    text: str
    renew_at_s: float
    stale_at_s: float


class OAuthTokens:
    """Tokens by client credentials."""

    def __init__(self, http: HttpClient, client_id: str, client_secret: str, clock: Clock) -> None:
        self._http = http
        basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._headers = {
            "Authorization": f"Basic {basic}",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        self._clock = clock
        self._token: _Token | None = None
        self._renewal: asyncio.Task[_Token] | None = None
        self._not_before_s = 0.0

    def ready(self) -> str | None:
        """See `Credentials.ready`. A token that grows old is renewed in the background."""
        token, now_s = self._token, self._clock.monotonic_s()
        if token is None or now_s >= token.stale_at_s:
            return None
        if now_s >= max(token.renew_at_s, self._not_before_s):
            self._renew()
        return token.text

    async def bearer(self) -> str:
        """See `Credentials.bearer`."""
        # Shielded: the caller that started it may leave, the others still wait for it.
        return self.ready() or (await asyncio.shield(self._renew())).text

    def refused(self, token: str) -> bool:
        """Forget the token, unless another has taken its place meanwhile."""
        if self._token is not None and self._token.text == token:
            self._token = None
        return True

    async def close(self) -> None:
        """Stop a renewal that runs."""
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError, UpstreamError):
                await self._renewal

    def _renew(self) -> "asyncio.Task[_Token]":
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._fetch())
            self._renewal.add_done_callback(self._renewed)
        return self._renewal

    def _renewed(self, task: "asyncio.Task[_Token]") -> None:
        self._renewal = None
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._token = task.result()
        else:
            self._not_before_s = self._clock.monotonic_s() + _PAUSE_AFTER_FAILURE_S
            log.warning("endpoint %s: no new OAuth token: %s", self._http.name, error)

    async def _fetch(self) -> _Token:
        now_s = self._clock.monotonic_s()
        deadline_s = self._http.now_s() + _FETCH_S
        try:
            head = self._http.head(_PATH, self._headers)
            reply = await self._http.post(HttpRequest(head, _FORM, deadline_s, _FETCH_S))
        except UpstreamError as error:
            message = f"no OAuth token could be had: {error.message}"
            raise UpstreamError(FailureKind.NOT_SENT, message) from error
        return _read_token(reply, now_s)


def _read_token(reply: Reply, now_s: float) -> _Token:
    """The token in a reply of the token endpoint, counted from when it was asked for."""
    if not reply.accepted:
        clients_fault = 400 <= reply.status < 500 and reply.status not in (408, 429)
        kind = FailureKind.UNAUTHORIZED if clients_fault else FailureKind.UNAVAILABLE
        raise UpstreamError(kind, f"the token endpoint answered with status {reply.status}", reply.status)
    try:
        data = orjson.loads(reply.body)
    except orjson.JSONDecodeError:
        data = None
    text = data.get("access_token") if isinstance(data, dict) else None
    if not isinstance(text, str) or not text.isascii() or not text.isprintable() or not text:
        raise UpstreamError(FailureKind.UNAVAILABLE, "the token endpoint gave no token")
    life_s = data.get("expires_in", _DEFAULT_LIFE_S)
    if isinstance(life_s, bool) or not isinstance(life_s, int | float) or life_s <= 0:
        life_s = _DEFAULT_LIFE_S
    return _Token(text, now_s + _RENEW_AT * life_s, now_s + _STALE_AT * life_s)


def credentials_of(endpoint: Endpoint, http: HttpClient, clock: Clock) -> Credentials:
    """OAuth where a client is configured, otherwise the access token.

    Raises:
        ConfigError: it has neither.
    """
    if endpoint.client_id and endpoint.client_secret:
        return OAuthTokens(http, endpoint.client_id, endpoint.client_secret, clock)
    if endpoint.api_key:
        return AccessToken(endpoint.api_key)
    raise ConfigError(f"endpoint {endpoint.name} needs an api_key, or a client_id and a client_secret")
