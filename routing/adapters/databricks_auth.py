"""Databricks credentials: a personal access token, or OAuth machine-to-machine.

OAuth: ``POST <host>/oidc/v1/token``, HTTP Basic, ``grant_type=client_credentials&scope=all-apis``; a token lives an
hour. It is fetched again early, by one caller; the others go on with the old one as long as it lives.
"""

import asyncio
from typing import Protocol

import aiohttp

from core.clock import Clock
from routing.errors import FailureKind, UpstreamError
from routing.model import Endpoint

_REFRESH_AT = 0.8  # of a token's life
_TIMEOUT_S = 10.0


class Credentials(Protocol):
    """Gives bearer tokens."""

    async def token(self) -> str:
        """A token that is valid now.

        Raises:
            UpstreamError: UNAUTHORIZED or NOT_SENT, there is none to be had.
        """
        ...

    def reject(self, token: str) -> bool:
        """The provider refused this token; True if another may be had."""
        ...


class StaticToken:
    """A personal access token."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def token(self) -> str:
        """The token."""
        return self._token

    def reject(self, token: str) -> bool:
        """There is no other."""
        return False


class OAuthToken:
    """OAuth M2M with exactly one refresh in flight."""

    def __init__(self, endpoint: Endpoint, clock: Clock) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._token = ""
        self._expires_s = 0.0
        self._refresh_s = 0.0
        self._refreshing: asyncio.Task[None] | None = None

    async def token(self) -> str:
        """The token; waits for a refresh only when there is none that is valid."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._refresh_s:
            if self._refreshing is None or self._refreshing.done():
                self._refreshing = asyncio.create_task(self._refresh())
                self._refreshing.add_done_callback(_retrieve)
            if now_s >= self._expires_s:
                await asyncio.shield(self._refreshing)
        return self._token

    def reject(self, token: str) -> bool:
        """Drop a token that the provider refused, unless it was replaced meanwhile."""
        if token == self._token:
            self._expires_s = self._refresh_s = 0.0
        return True

    async def _refresh(self) -> None:
        began_s = self._clock.monotonic_s()
        auth = aiohttp.encode_basic_auth(self._endpoint.client_id or "", self._endpoint.client_secret or "")
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session,
                session.post(
                    f"{self._endpoint.base_url}/oidc/v1/token",
                    headers={"Authorization": auth},
                    data={"grant_type": "client_credentials", "scope": "all-apis"},
                ) as answer,
            ):
                if answer.status != 200:
                    kind = FailureKind.UNAUTHORIZED if answer.status < 500 else FailureKind.UNAVAILABLE
                    raise UpstreamError(kind, f"the token endpoint answered {answer.status}", answer.status)
                data = await answer.json()
                self._token = str(data["access_token"])
                lives_s = float(data.get("expires_in", 3600))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamError(FailureKind.NOT_SENT, f"no token: {type(error).__name__}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise UpstreamError(FailureKind.UNAUTHORIZED, "the token endpoint's answer has no token") from error
        self._expires_s = began_s + lives_s
        self._refresh_s = began_s + lives_s * _REFRESH_AT


def _retrieve(task: "asyncio.Task[None]") -> None:
    """A refresh in the background that fails is not an error while the old token lives."""
    if not task.cancelled():
        task.exception()


def credentials_of(endpoint: Endpoint, clock: Clock) -> Credentials:
    """OAuth where a client is configured, otherwise the personal access token."""
    if endpoint.client_id and endpoint.client_secret:
        return OAuthToken(endpoint, clock)
    return StaticToken(endpoint.api_key or "")
