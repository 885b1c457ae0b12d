"""Who may come in: admin keys, as a bearer token or in X-Api-Key."""

from collections.abc import Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from core.keys import KeyRing, KeyRole


def admin_only(keys: KeyRing) -> Callable[..., None]:
    """A FastAPI dependency that lets admin keys pass.

    Raises (the dependency):
        Unauthorized: no key, or one that is not known.
        Forbidden: a key of another role.
    """
    bearer = HTTPBearer(auto_error=False, description="An admin key")
    header = APIKeyHeader(name="X-Api-Key", auto_error=False, description="An admin key")

    def check(
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
        api_key: Annotated[str | None, Security(header)],
    ) -> None:
        keys.authenticate(credentials.credentials if credentials else api_key, KeyRole.ADMIN)

    return check
