"""/api/keys: list, create, delete. A key's text is in the answer to its creation and nowhere else, ever."""

import contextlib
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from budget.codec import parse_spec
from core.clock import iso_utc
from core.errors import Conflict, InvalidInput, NotFound, StoreUnavailable
from core.key_codec import KEY_KIND, dump_key
from core.keys import ApiKey, KeyRole, digest_of, new_key_text
from core.scope import Scope, parse_scope_text
from dashboard.deps import Deps
from dashboard.wire import answer, documented_body, read_json

ScopeTexts = Annotated[list[str], Field(max_length=100)]


class KeySpec(BaseModel):
    """A key as it is asked for.

    scopes: what each call with the key is charged to, such as ``agent:research-bot``; one per type.
    mayName: what a caller may name itself, with ``*`` as wildcard, such as ``user:*``.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=100)]
    role: KeyRole = KeyRole.AGENT
    scopes: ScopeTexts = []
    may_name: ScopeTexts = []


class KeysApi:
    """The handlers."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps

    async def all(self) -> Response:
        """Every key, without its text or digest."""
        await self._deps.refresh()
        return answer({"keys": [_shown(key) for key in self._deps.keys.all()]})

    async def create(self, request: Request) -> Response:
        """A new key; `key` in the answer is its text, shown this once."""
        spec = parse_spec(KeySpec, await read_json(request))
        key_id, text = new_key_text(spec.role)
        key = ApiKey(
            id=key_id,
            name=spec.name,
            role=spec.role,
            digest=digest_of(text),
            scopes=_bound_scopes(spec),
            may_name=_scopes("mayName", spec.may_name, wildcard=True),
            created_ms=self._deps.clock.now_ms(),
        )
        await self._deps.documents.put(KEY_KIND, key_id, dump_key(key), expected=0)
        await self._refresh_if_possible()
        return answer({**_shown(key), "key": text}, 201, {"Cache-Control": "no-store"})

    async def delete(self, key_id: str) -> Response:
        """The key no longer works. The last admin key can't be deleted."""
        await self._deps.refresh()
        key = self._find(key_id)
        if key.source == "env":
            raise Conflict(f"the key {key_id} comes from the environment; remove it there")
        if key.role is KeyRole.ADMIN and self._admins() < 2:
            raise Conflict(f"{key_id} is the last admin key; create another one first")
        await self._deps.documents.put(KEY_KIND, key_id, None)
        await self._refresh_if_possible()
        if key.role is KeyRole.ADMIN and not self._admins():
            # Two deletes at once each saw the other's key: whoever comes last finds none left and puts its back.
            await self._deps.documents.put(KEY_KIND, key_id, dump_key(key))
            await self._refresh_if_possible()
            raise Conflict(f"{key_id} is the last admin key; create another one first")
        return Response(status_code=204)

    def _find(self, key_id: str) -> ApiKey:
        for key in self._deps.keys.all():
            if key.id == key_id:
                return key
        raise NotFound(f"there is no key {key_id}")

    def _admins(self) -> int:
        return sum(1 for key in self._deps.keys.all() if key.role is KeyRole.ADMIN)

    async def _refresh_if_possible(self) -> None:
        with contextlib.suppress(StoreUnavailable):  # the write is done; the watcher brings it soon
            await self._deps.refresh()


def router(deps: Deps) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/keys", tags=["keys"])
    api = KeysApi(deps)
    body = documented_body(KeySpec)
    routes.add_api_route("", api.all, methods=["GET"], name="list_keys")
    routes.add_api_route("", api.create, methods=["POST"], status_code=201, openapi_extra=body, name="create_key")
    routes.add_api_route("/{key_id}", api.delete, methods=["DELETE"], status_code=204, name="delete_key")
    return routes


def _bound_scopes(spec: KeySpec) -> tuple[Scope, ...]:
    if spec.role is KeyRole.ADMIN and (spec.scopes or spec.may_name):
        raise InvalidInput("scopes", "must be empty for an admin key: it spends nothing")
    scopes = _scopes("scopes", spec.scopes, wildcard=False)
    if len({scope.type for scope in scopes}) < len(scopes):
        raise InvalidInput("scopes", "must hold at most one scope of a type")
    return scopes


def _scopes(field: str, texts: Sequence[str], *, wildcard: bool) -> tuple[Scope, ...]:
    scopes = []
    for number, text in enumerate(texts):
        try:
            scope = parse_scope_text(field, text, wildcard=wildcard)
        except InvalidInput as error:
            raise InvalidInput(f"{field}.{number}", error.rule) from None
        if scope.type == "key":
            raise InvalidInput(f"{field}.{number}", "must not be of the type key: a call's key is its own scope")
        scopes.append(scope)
    return tuple(scopes)


def _shown(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role.value,
        "scopes": [str(scope) for scope in key.scopes],
        "mayName": [str(pattern) for pattern in key.may_name],
        "createdAt": iso_utc(key.created_ms),
        "source": key.source,
    }
