"""A person's session: the admin key is asked for once, and a cookie stands for it.

The cookie names the key and when the session ends, signed with what is stored of the key; so every worker takes it, the
key itself is nowhere, and a key that is deleted ends its sessions. Forms carry a token that only this session's pages
have.
"""

import hashlib
import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi import Request, Response
from starlette.requests import HTTPConnection

from core.clock import Clock
from core.errors import Forbidden, Unauthorized
from core.keys import ApiKey, KeyRing, KeyRole

COOKIE = "spendgate_session"
LIFE_S = 12 * 3600
_TOKEN_FIELD = "token"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has shown the admin key. token: goes with every form."""

    key: ApiKey
    until_s: int
    token: str


@dataclass(slots=True)
class Sessions:
    """Begins and checks sessions."""

    keys: KeyRing
    clock: Clock

    def begin(self, response: Response, key_text: str, *, secure: bool) -> None:
        """Let the browser keep a session for this key. secure: the page came over HTTPS.

        Raises:
            Unauthorized, Forbidden: it is no admin key.
        """
        key = self.keys.authenticate(key_text.strip(), KeyRole.ADMIN)
        until_s = self.clock.now_ms() // 1000 + LIFE_S
        response.set_cookie(
            COOKIE,
            f"{key.id}.{until_s}.{_sign(key, until_s, 'session')}",
            max_age=LIFE_S,
            path="/",
            httponly=True,
            samesite="strict",
            secure=secure,
        )

    def end(self, response: Response) -> None:
        """Let the browser forget it."""
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    def check(self, request: HTTPConnection) -> Session:
        """The session of a request.

        Raises:
            Unauthorized: it has none, or none that still holds.
        """
        key_id, _, rest = request.cookies.get(COOKIE, "").partition(".")
        until, _, signature = rest.partition(".")
        key = self.keys.get(key_id)
        if key is None or key.role is not KeyRole.ADMIN or not until.isdecimal():
            raise Unauthorized("log in with the admin key")
        until_s = int(until)
        if not hmac.compare_digest(signature.encode(), _sign(key, until_s, "session").encode()):
            raise Unauthorized("log in with the admin key")
        if until_s <= self.clock.now_ms() // 1000:
            raise Unauthorized("the session is over; log in again")
        return Session(key, until_s, _sign(key, until_s, "form"))

    def check_form(self, request: Request, form: dict[str, str]) -> Session:
        """The session of a form that was sent from one of its pages.

        Raises:
            Unauthorized: there is no session. Forbidden: the form is another site's.
        """
        session = self.check(request)
        check_origin(request)
        if not hmac.compare_digest(form.get(_TOKEN_FIELD, "").encode(), session.token.encode()):
            raise Forbidden("this form is too old, or not of this page; load the page again")
        return session


def check_origin(request: HTTPConnection) -> None:
    """A browser says where a form comes from.

    Raises:
        Forbidden: from another site.
    """
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("the form comes from another site")


def _sign(key: ApiKey, until_s: int, purpose: str) -> str:
    text = f"{purpose}.{key.id}.{until_s}".encode()
    return hmac.new(bytes.fromhex(key.digest), text, hashlib.sha256).hexdigest()
