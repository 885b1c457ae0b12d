"""Who may call: personal access tokens, and OAuth tokens by client credentials (machine to machine)."""

import base64
import binascii
import hmac
import secrets
from urllib.parse import parse_qs

from core.clock import Clock
from simulator.errors import forbidden, unauthenticated
from simulator.settings import SimulatorSettings

#: Marks the OAuth tokens given out here, so that an expired one is told from an unknown access token.
_OAUTH_MARK = "simulated-oauth-"


class OAuthError(Exception):
    """A token request that is refused, in OAuth's shape (RFC 6749, section 5.2)."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.body = {"error": error, "error_description": description}


class Doorkeeper:
    """Checks bearer tokens and gives out OAuth tokens. issued_count: how many since the start."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self._accepted = {token.encode() for token in settings.access_tokens}
        self._client_id = settings.client_id
        self._client_secret = settings.client_secret
        self._ttl_s = settings.oauth_token_ttl_s
        self._clock = clock
        self._issued: dict[str, float] = {}
        self.issued_count = 0

    def check(self, authorization: bytes | None) -> None:
        """Let a call in by its ``Authorization`` header.

        Raises:
            CallError: 401 without a bearer token or with an expired one, 403 with one that is not known.
        """
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise unauthenticated("Credential was not sent or was of an unsupported type for this API.")
        token = token.strip()
        if token.startswith(_OAUTH_MARK.encode()):
            self._check_issued(token.decode("latin-1"))
        elif self._accepted and token not in self._accepted:
            raise forbidden("Invalid access token.")

    def issue(self, authorization: bytes | None, form: bytes) -> dict[str, object]:
        """A new OAuth token for client credentials.

        Raises:
            OAuthError: 401 wrong client; 400 another grant, or no scope.
        """
        self._check_client(authorization)
        fields = parse_qs(form.decode("latin-1"))
        if fields.get("grant_type") != ["client_credentials"]:
            raise OAuthError(400, "unsupported_grant_type", "grant_type must be client_credentials")
        if not fields.get("scope"):
            raise OAuthError(400, "invalid_scope", "scope is needed, such as all-apis")
        now_s = self._clock.monotonic_s()
        self._issued = {token: end_s for token, end_s in self._issued.items() if end_s > now_s}
        token = _OAUTH_MARK + secrets.token_urlsafe(32)
        self._issued[token] = now_s + self._ttl_s
        self.issued_count += 1
        return {
            "access_token": token,
            "token_type": "Bearer",
            "expires_in": self._ttl_s,
            "scope": " ".join(fields["scope"]),
        }

    def _check_issued(self, token: str) -> None:
        if self._issued.get(token, 0.0) <= self._clock.monotonic_s():
            raise unauthenticated("Token is expired.")

    def _check_client(self, authorization: bytes | None) -> None:
        scheme, _, encoded = (authorization or b"").partition(b" ")
        try:
            text = base64.b64decode(encoded.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            text = ""
        client_id, _, secret = text.partition(":")
        known = _matches(client_id, self._client_id) and _matches(secret, self._client_secret)
        if scheme.lower() != b"basic" or not known:
            raise OAuthError(401, "invalid_client", "Client authentication failed")


def _matches(given: str, expected: str | None) -> bool:
    if expected is None:
        return bool(given)
    return hmac.compare_digest(given.encode(), expected.encode())
