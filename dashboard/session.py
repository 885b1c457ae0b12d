"""A person's session: the admin key is asked for once, and a cookie stands for it.

The cookie names the key and when the session began and ends, signed with what is stored of the key; so every worker
takes it, the key itself is nowhere, and a key that is deleted ends its sessions. Pages that are used put the end off,
up to a week after the login. Forms carry a token that only pages of this session have.
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
#: A session ends so long after its last page, and so long after the login in any case.
LIFE_S = 12 * 3600
LONGEST_S = 7 * 24 * 3600
_TOKEN_FIELD = "token"


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who has shown the admin key. token: goes with every form."""

    key: ApiKey
    begun_s: int
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
        self._set(response, key, self._now_s(), secure=secure)

    def keep(self, response: Response, session: Session, *, secure: bool) -> None:
        """Put its end off, once less than half of its time is left."""
        if session.until_s - self._now_s() < LIFE_S // 2 and session.until_s < session.begun_s + LONGEST_S:
            self._set(response, session.key, session.begun_s, secure=secure)

    def _set(self, response: Response, key: ApiKey, begun_s: int, *, secure: bool) -> None:
        until_s = min(self._now_s() + LIFE_S, begun_s + LONGEST_S)
        signature = _sign(key, f"session.{begun_s}.{until_s}")
        response.set_cookie(
            COOKIE,
            f"{key.id}.{begun_s}.{until_s}.{signature}",
            max_age=until_s - self._now_s(),
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
        key_id, begun, until, signature = (*request.cookies.get(COOKIE, "").split("."), "", "", "", "")[:4]
        key = self.keys.get(key_id)
        if key is None or key.role is not KeyRole.ADMIN:
            raise Unauthorized("log in with the admin key")
        if not hmac.compare_digest(signature.encode(), _sign(key, f"session.{begun}.{until}").encode()):
            raise Unauthorized("log in with the admin key")
        if int(until) <= self._now_s():
            raise Unauthorized("the session is over; log in again")
        return Session(key, int(begun), int(until), _sign(key, f"form.{begun}"))

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

    def _now_s(self) -> int:
        return self.clock.now_ms() // 1000


def check_origin(request: HTTPConnection) -> None:
    """A browser says where a form comes from.

    Raises:
        Forbidden: from another site.
    """
    origin = request.headers.get("origin")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        raise Forbidden("the form comes from another site")


def _sign(key: ApiKey, what: str) -> str:
    return hmac.new(bytes.fromhex(key.digest), f"{what}.{key.id}".encode(), hashlib.sha256).hexdigest()
