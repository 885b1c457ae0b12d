"""Keys, errors and the small routes."""

from typing import Any

import pytest

from core.errors import BodyTooLarge, ConfigError, InvalidInput, StoreUnavailable, Unauthorized
from core.key_codec import dump_key, load_key
from core.keys import ApiKey, KeyRole, digest_of
from core.scope import Scope
from dashboard.errors import Stale, error_response

PATHS = ("/api/dashboard/spend", "/api/dashboard/spend/x", "/api/models", "/api/budgets", "/api/keys", "/api/events")


@pytest.mark.parametrize("path", PATHS)
async def test_everything_needs_an_admin_key(api: Any, path: str) -> None:
    _, agent = await api.add_key(KeyRole.AGENT)
    missing = await api.get(path, Authorization="")
    assert (missing.status, missing.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert (await api.get(path, Authorization="Bearer sg_admin_0_0")).status == 401
    assert (await api.get(path, Authorization="Basic " + api.admin_text)).status == 401
    refused = await api.get(path, Authorization=f"Bearer {agent}")
    assert (refused.status, refused.error["type"]) == (403, "permission_error")
    assert (await api.get(path, Authorization="", X_Api_Key=api.admin_text)).status in (200, 404)


async def test_a_write_without_a_key_is_not_even_read(api: Any) -> None:
    refused = await api.post("/api/budgets", b"not json", Authorization="")
    assert refused.status == 401


async def test_other_errors_come_in_the_envelope(api: Any) -> None:
    missing = await api.get("/api/nothing")
    assert (missing.status, missing.error["code"]) == (404, "not_found")
    wrong = await api.call("DELETE", "/api/models")
    assert (wrong.status, wrong.error["code"], wrong.headers["Allow"]) == (405, "method_not_allowed", "GET")
    query = await api.get("/api/dashboard/spend?limit=many")
    assert (query.status, query.error["field"]) == (400, "limit")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidInput("f", "is wrong"), 400, "invalid_request_error"),
        (Unauthorized("x"), 401, "authentication_error"),
        (Stale("x"), 412, "conflict_error"),
        (BodyTooLarge("x"), 413, "invalid_request_error"),
        (ConfigError("x"), 500, "api_error"),
        (StoreUnavailable("x"), 503, "api_error"),
    ],
)
def test_error_response(error: Any, status: int, kind: str) -> None:
    found = error_response(error)
    assert found.status_code == status
    assert f'"type":"{kind}","code":"{error.code}"'.encode() in found.body
    assert (b'"field":"f"' in found.body) == isinstance(error, InvalidInput)


async def test_a_key_is_shown_once_and_works(api: Any) -> None:
    asked = {"name": "bots", "scopes": ["agent:x"], "mayName": ["user:*"]}
    made = await api.post("/api/keys", asked)
    assert (made.status, made.headers["Cache-Control"]) == (201, "no-store")
    text = made.json["key"]
    found = api.deps.keys.authenticate(text, KeyRole.AGENT)
    assert found.scopes == (Scope("agent", "x"),)
    assert found.may(Scope("user", "ann"))
    listed = await api.get("/api/keys")
    assert text not in listed.text
    assert digest_of(text) not in listed.text
    assert len(listed.json["keys"]) == 2
    stored = str(api.store.documents)
    assert text not in stored
    assert (await api.call("DELETE", f"/api/keys/{found.id}")).status == 204
    assert (await api.call("DELETE", f"/api/keys/{found.id}")).status == 404


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"role": "root"}, "role"),
        ({"scopes": ["agent"]}, "scopes.0"),
        ({"scopes": ["agent:*"]}, "scopes.0"),
        ({"scopes": ["agent:a", "agent:b"]}, "scopes"),
        ({"mayName": ["user:*", "key:*"]}, "mayName.1"),
        ({"role": "admin", "scopes": ["agent:a"]}, "scopes"),
        ({"digest": "0"}, "digest"),
    ],
)
async def test_a_wrong_key_is_named(api: Any, fields: dict[str, Any], field: str) -> None:
    refused = await api.post("/api/keys", {"name": "n"} | fields)
    assert (refused.status, refused.error["field"]) == (400, field), refused.text


async def test_the_last_admin_key_stays(api: Any) -> None:
    own = api.admin_text.split("_")[2]
    assert (await api.call("DELETE", f"/api/keys/{own}")).status == 409
    env, _ = await api.add_key(KeyRole.ADMIN, source="env")
    assert (await api.call("DELETE", f"/api/keys/{env}")).status == 409
    other, _ = await api.add_key(KeyRole.ADMIN)
    assert (await api.call("DELETE", f"/api/keys/{other}")).status == 204


async def test_two_deletes_at_once_leave_an_admin(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = api.admin_text.split("_")[2]
    other, _ = await api.add_key(KeyRole.ADMIN)
    put = api.store.put

    async def with_rival(kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        if text is None:
            await put(kind, own, None)  # somebody else deletes the other admin key between check and write
        return await put(kind, document_id, text, expected=expected)

    monkeypatch.setattr(type(api.store), "put", lambda _, *a, **k: with_rival(*a, **k))
    assert (await api.call("DELETE", f"/api/keys/{other}")).status == 409
    assert [k.id for k in api.deps.keys.all()] == [other]


def test_a_stored_key_reads_back() -> None:
    scopes = (Scope("agent", "a:b/ü"),)
    key = ApiKey("id", "näme", KeyRole.AGENT, "00", scopes, (Scope("user", "*"),), 5, "start")
    assert load_key(dump_key(key)) == key


async def test_models_with_exact_prices(api: Any) -> None:
    found = await api.get("/api/models")
    dbrx, mixtral, mystery = found.json["models"]
    assert (dbrx["role"], dbrx["aliases"], dbrx["endpointKind"]) == ("primary", ["big"], "databricks")
    assert (dbrx["priceVersion"], dbrx["source"]) == ("dbrx@2024-01-01", "a price sheet")
    assert '"input":0.75,"cachedInput":0.75,"cacheWrite":0.75,"output":2.25,"reasoning":2.25' in found.text
    assert '"input":0.000002,' in found.text  # rounded up to a pico-dollar per token when the price was read
    assert mixtral["priced"] is True
    assert mystery["priced"] is False
    assert "usdPerMillionTokens" not in mystery


async def test_events_in_pages(api: Any) -> None:
    await api.post("/api/budgets", {"scopeType": "agent", "scopeKey": "*", "limitUsd": 1})
    for cost in (1, 2, 3):
        await api.spend("agent:x", cost)
    stored = [event_id for event_id, _ in await api.store.events()]
    seen, after = [], ""
    while page := (await api.get(f"/api/events?limit=2{after}")).json:
        seen += page["events"]
        after = f"&after={page['next']}"
        if not page["events"]:
            break
    assert [e["eventId"] for e in seen] == stored
    assert [e["cost_nano"] for e in seen if e["type"] == "post"] == ["1", "2", "3"]
    assert page["next"] == stored[-1]
    assert (await api.get("/api/events?after=$")).status == 400


async def test_an_event_about_a_key_hides_its_digest(api: Any) -> None:
    api.store.log.append({"type": "document", "id": "key:1", "text": '{"digest":"00"}'})
    event = (await api.get("/api/events")).json["events"][-1]
    assert event["id"] == "key:1"
    assert "text" not in event
    assert "digest" not in (await api.get("/api/events")).text


async def test_docs_show_what_a_body_holds(api: Any) -> None:
    text = (await api.get("/openapi.json")).text
    for field in ("limitUsd", "mayName", "amountUsd", "APIKeyHeader", "HTTPBearer"):
        assert f'"{field}"' in text
    assert "$defs" not in text
