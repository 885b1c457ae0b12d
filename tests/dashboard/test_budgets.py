"""Budgets over the API: the whole life of one, and what is refused."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from budget.codec import dump_budget
from budget.model import Budget
from core.errors import Conflict, StoreUnavailable
from core.scope import Scope

DAY = {"scopeType": "agent", "scopeKey": "bot", "limitUsd": "12.50"}


async def create(api: Any, **fields: Any) -> Any:
    found = await api.post("/api/budgets", DAY | fields)
    assert found.status == 201, found.text
    return found


async def test_the_life_of_a_budget(api: Any) -> None:
    made = await create(api, limitUsd=12.5, downgrade=[{"from": "*", "to": "mixtral"}])
    assert made.headers["Location"] == "/api/budgets/agent-bot-daily"
    assert made.json["limitUsd"] == "12.50"
    assert made.json["source"] == "api"
    assert made.json["createdAt"] == "2026-11-23T12:00:00.000Z"
    assert made.json["currentPeriod"] == {
        "id": "2026-11-23",
        "start": "2026-11-23T00:00:00.000Z",
        "end": "2026-11-24T00:00:00.000Z",
    }
    path = made.headers["Location"]
    read = await api.get(path)
    assert read.json == made.json
    assert read.headers["ETag"] == made.headers["ETag"]
    api.clock.at_ms += 1000
    patched = await api.call("PATCH", path, {"limit_usd": "20", "paused": True})
    assert (patched.json["limitUsd"], patched.json["paused"]) == ("20.00", True)
    assert patched.json["downgrade"] == [{"from": "*", "to": "mixtral"}]
    assert patched.json["createdAt"] == made.json["createdAt"] < patched.json["updatedAt"]
    whole = await api.call("PUT", path, DAY | {"limitUsd": 1})
    assert (whole.json["limitUsd"], whole.json["paused"], whole.json["downgrade"]) == ("1.00", False, None)
    assert [b["id"] for b in (await api.get("/api/budgets")).json["budgets"]] == ["agent-bot-daily"]
    assert (await api.call("DELETE", path)).status == 204
    assert (await api.get(path)).status == 404


async def test_the_writer_is_in_force_at_once(api: Any) -> None:
    await create(api)
    (terms,) = api.deps.book.accounts([Scope("agent", "bot")], api.clock.now_ms())
    assert terms.limit_nano == 12_500_000_000
    assert api.deps.book.version == api.store.version


async def test_ids(api: Any) -> None:
    assert (await create(api, id="mine")).json["id"] == "mine"
    taken = await api.post("/api/budgets", DAY | {"id": "mine"})
    assert (taken.status, taken.error["code"]) == (409, "conflict")
    ids = [(await create(api, scopeKey="*", cadence="every:6h")).json["id"] for _ in range(2)]
    assert ids == ["agent-all-every-6h", "agent-all-every-6h-2"]
    long = await create(api, scopeKey="Ünï/" + "x" * 200)
    assert len(long.json["id"]) <= 64


async def test_list_filters(api: Any) -> None:
    await create(api)
    await create(api, scopeType="user", scopeKey="ann")
    await api.add_budget(Budget("default", Scope("agent", "*"), 1, source="env"))

    async def ids(query: str) -> list[str]:
        return [b["id"] for b in (await api.get(f"/api/budgets?{query}")).json["budgets"]]

    assert await ids("scopeType=agent&scopeKey=bot") == ["agent-bot-daily"]
    assert await ids("source=env") == ["default"]
    assert await ids("scopeKey=ann") == ["user-ann-daily"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"limitUsd": "a lot"}, "limitUsd"),
        ({"limitUsd": -1}, "limitUsd"),
        ({"limitUsd": True}, "limitUsd"),
        ({"limitUsd": "9999999"}, "limitUsd"),
        ({"softCap": 2}, "softCap"),
        ({"hardCap": "x"}, "hardCap"),
        ({"cadence": "hourly"}, "cadence"),
        ({"timeZone": "Mars"}, "timeZone"),
        ({"scopeKey": ""}, "scopeKey"),
        ({"limit": 5}, "limit"),
        ({"id": "Not An Id"}, "id"),
        ({"downgrade": [{"from": "*", "to": "gpt-9"}]}, "downgrade.0.to"),
        ({"downgrade": [{"from": "gpt-9", "to": "mixtral"}]}, "downgrade.0.from"),
        ({"downgrade": [{"from": "*", "to": "*"}]}, "downgrade.0.to"),
    ],
)
async def test_a_wrong_field_is_named(api: Any, fields: dict[str, Any], field: str) -> None:
    refused = await api.post("/api/budgets", DAY | fields)
    assert (refused.status, refused.error["field"]) == (400, field), refused.text
    assert (await api.get("/api/budgets")).json["budgets"] == []
    await create(api)
    patched = await api.call("PATCH", "/api/budgets/agent-bot-daily", fields)
    assert (patched.status, patched.error["field"]) == (400, field), patched.text


async def test_what_a_budget_is_can_not_change(api: Any) -> None:
    await create(api)
    for fields, field in (({"id": "other"}, "id"), ({"scopeType": "user"}, "scopeType")):
        refused = await api.call("PATCH", "/api/budgets/agent-bot-daily", fields)
        assert (refused.status, refused.error["field"]) == (400, field)


async def test_if_match(api: Any) -> None:
    tag = (await create(api)).headers["ETag"]
    path = "/api/budgets/agent-bot-daily"
    changed = await api.call("PATCH", path, {"limitUsd": 2}, If_Match=f'"99", {tag}')
    assert changed.status == 200
    for method, where in (("PATCH", path), ("PUT", path), ("DELETE", path), ("POST", path + "/reset")):
        stale = await api.call(
            method, where, DAY | {"reason": "x"} if method == "PUT" else {"reason": "x"}, If_Match=tag
        )
        assert (stale.status, stale.error["code"]) == (412, "precondition_failed"), method
    assert (await api.call("DELETE", path, If_Match=changed.headers["ETag"])).status == 204


async def test_changes_at_once_are_all_kept(api: Any) -> None:
    await create(api)
    body = {"amountUsd": 1, "reason": "more"}
    answers = await asyncio.gather(*(api.post("/api/budgets/agent-bot-daily/top-up", body) for _ in range(8)))
    assert [a.status for a in answers] == [200] * 8
    assert len(api.deps.book.get("agent-bot-daily").top_ups) == 8


async def test_a_write_that_another_worker_overtakes_is_done_again(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(api)
    put, calls = api.store.put, []
    of_the_other = dump_budget(replace(api.deps.book.get("agent-bot-daily"), limit_nano=13_500_000_000))

    async def overtaken(kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        calls.append(expected)
        if len(calls) == 1:
            await put(kind, document_id, of_the_other)
        return await put(kind, document_id, text, expected=expected)

    monkeypatch.setattr(type(api.store), "put", lambda _, *a, **k: overtaken(*a, **k))
    topped = await api.post("/api/budgets/agent-bot-daily/top-up", {"amountUsd": 1, "reason": "more"})
    assert topped.status == 200
    assert topped.json["limitUsd"] == "13.50"
    assert len(topped.json["topUps"]) == 1
    assert len(calls) == 2


async def test_a_write_whose_answer_was_lost_is_not_done_twice(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await create(api)
    put, calls = api.store.put, []

    async def repeated(kind: str, document_id: str, text: bytes | None, *, expected: int | None = None) -> int:
        calls.append(await put(kind, document_id, text, expected=expected))
        raise Conflict("the client of the store asked again, and found its own write")

    monkeypatch.setattr(type(api.store), "put", lambda _, *a, **k: repeated(*a, **k))
    topped = await api.post("/api/budgets/agent-bot-daily/top-up", {"amountUsd": 1, "reason": "more"})
    assert (topped.status, len(topped.json["topUps"]), len(calls)) == (200, 1, 1)


async def test_top_up(api: Any) -> None:
    await create(api)
    path = "/api/budgets/agent-bot-daily/top-up"
    topped = await api.post(
        path, {"amountUsd": "2.000000001", "reason": "launch", "expiresAt": "2026-11-23T14:00:00+01:00"}
    )
    assert topped.json["topUps"][0]["expiresAt"] == "2026-11-23T13:00:00.000Z"
    assert (await api.get("/api/dashboard/spend/bot")).json["limit"] == 14.500000001
    until_end = await api.post(path, {"amountUsd": 1, "reason": "more", "expiresAt": "2027-01-01T00:00:00Z"})
    assert until_end.json["topUps"][1]["expiresAt"] == "2026-11-24T00:00:00.000Z"
    api.clock.at_ms += 2 * 86_400_000
    patched = await api.call("PATCH", "/api/budgets/agent-bot-daily", {"limitUsd": 3})
    assert patched.json["topUps"] == []


async def test_a_change_keeps_top_ups_and_resets(api: Any) -> None:
    await create(api)
    path = "/api/budgets/agent-bot-daily"
    await api.post(f"{path}/reset", {"reason": "a bug"})
    before = (await api.post(f"{path}/top-up", {"amountUsd": 1, "reason": "more"})).json
    for method in ("PATCH", "PUT"):
        after = (await api.call(method, path, DAY)).json
        assert (after["topUps"], after["resets"]) == (before["topUps"], before["resets"])
        assert (len(after["topUps"]), len(after["resets"])) == (1, 1)


async def test_a_top_up_of_a_total_budget_does_not_end(api: Any) -> None:
    await create(api, cadence="total")
    topped = await api.post("/api/budgets/agent-bot-total/top-up", {"amountUsd": 1, "reason": "more"})
    assert topped.json["topUps"][0]["expiresAt"].startswith("9999-")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"amountUsd": 0}, "amountUsd"),
        ({"amountUsd": "-1"}, "amountUsd"),
        ({"amountUsd": "7000000"}, "amountUsd"),
        ({"reason": ""}, "reason"),
        ({"scopeKey": "other"}, "scopeKey"),
        ({"expiresAt": "2026-11-23T11:00:00Z"}, "expiresAt"),
        ({"expiresAt": "2026-11-23T13:00:00"}, "expiresAt"),
        ({"expiresAt": "soon"}, "expiresAt"),
    ],
)
async def test_a_wrong_top_up(api: Any, fields: dict[str, Any], field: str) -> None:
    await create(api, limitUsd=1_000_000)
    body = {"amountUsd": 1, "reason": "more"} | fields
    refused = await api.post("/api/budgets/agent-bot-daily/top-up", body)
    assert (refused.status, refused.error["field"]) == (400, field), refused.text
    assert api.deps.book.get("agent-bot-daily").top_ups == ()


async def test_the_same_idempotency_key_tops_up_once(api: Any) -> None:
    await create(api)
    for _ in range(2):
        body = {"amountUsd": 1, "reason": "more"}
        topped = await api.post("/api/budgets/agent-bot-daily/top-up", body, Idempotency_Key="a")
        assert len(topped.json["topUps"]) == 1


async def test_reset_of_one_key(api: Any) -> None:
    await create(api, scopeKey="*")
    await api.spend("agent:bot", 5_000_000_000)
    await api.spend("agent:other", 5_000_000_000)
    done = await api.post("/api/budgets/agent-all-daily/reset", {"reason": "a bug", "scopeKey": "bot"})
    assert done.json["resets"] == [
        {"period": "2026-11-23", "scopeKey": "bot", "reason": "a bug", "at": "2026-11-23T12:00:00.000Z"}
    ]
    assert (await api.get("/api/dashboard/spend/bot")).json["spent"] == 0
    assert (await api.get("/api/dashboard/spend/other")).json["spent"] == 5
    await api.post("/api/budgets/agent-all-daily/reset", {"reason": "all"})
    assert (await api.get("/api/dashboard/spend/other")).json["spent"] == 0
    assert (await api.post("/api/budgets/agent-all-daily/reset", {})).error["field"] == "reason"


@pytest.mark.parametrize(
    ("source", "place"), [("env", "BUDGET_DEFAULT_LIMIT"), ("yaml", "YAML"), ("edge", "Edge Config")]
)
async def test_a_budget_from_outside_is_changed_there(api: Any, source: str, place: str) -> None:
    await api.add_budget(Budget("b", Scope("agent", "*"), 1_000_000_000, source=source))
    for method in ("PUT", "PATCH", "DELETE"):
        refused = await api.call(method, "/api/budgets/b", DAY)
        assert refused.status == 409
        assert place in refused.error["message"]
    assert (await api.post("/api/budgets/b/reset", {"reason": "x"})).status == 200
    assert (await api.post("/api/budgets/b/top-up", {"amountUsd": 1, "reason": "x"})).status == 200
    assert api.deps.book.get("b").source == source


async def test_a_refresh_that_fails_does_not_undo_a_write(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> None:
        raise StoreUnavailable("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(api.deps, "refresh", away)
        assert (await api.post("/api/budgets", DAY)).status == 201
        gone = await api.get("/api/budgets")
        assert (gone.status, gone.headers["Retry-After"]) == (503, "2")
    assert len((await api.get("/api/budgets")).json["budgets"]) == 1


async def test_bodies(api: Any) -> None:
    for body in (b"", b"{", b"[]", b"5", b'{"limitUsd":NaN}', b"[" * 5000):
        refused = await api.post("/api/budgets", body)
        assert (refused.status, refused.error["field"]) == (400, "body")
    huge = await api.post("/api/budgets", b" " * (1 << 20) + b"{}")
    assert (huge.status, huge.error["code"]) == (413, "body_too_large")
