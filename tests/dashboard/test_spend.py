"""What is spent, held and left, to the nano-dollar."""

from dataclasses import replace
from typing import Any

import pytest

from budget.model import Budget, Reset, TopUp
from core.scope import Scope

DAY_MS = 86_400_000


def budget(budget_id: str, scope: str, limit_nano: int = 10_000_000_000, **more: Any) -> Budget:
    return Budget(budget_id, Scope(*scope.split(":", 1)), limit_nano, **more)


async def test_each_account_with_what_is_left(api: Any) -> None:
    await api.add_budget(budget("b", "agent:*"))
    await api.spend("agent:one", 1_234_567_891)
    await api.spend("agent:two", 9_000_000_001)
    await api.hold("agent:one", 2_000_000_000)
    found = await api.get("/api/dashboard/spend")
    assert found.status == 200
    assert [s["scopeKey"] for s in found.json["scopes"]] == ["two", "one"]
    # exact decimal numbers, as text because a float would hide a lost nano-dollar
    assert '"spent":1.234567891,"held":2.00,"limit":10.00,"remaining":8.765432109' in found.text
    assert '"hardLimit":12.00,"hardRemaining":8.765432109,"percent":12.34,"state":"Active"' in found.text
    assert found.json["scopes"][0]["state"] == "Warned"
    assert found.json["asOf"] == "2026-11-23T12:00:00.000Z"
    assert found.json["scopes"][0]["periodEnd"] == "2026-11-24T00:00:00.000Z"
    totals = found.json["totals"]
    assert totals["states"] == {"Active": 1, "Warned": 1, "Degraded": 0, "Stopped": 0}
    assert '"budgets":[{"budgetId":"b","scopes":2,"spent":10.234567892,"held":2.00}]' in found.text


async def test_filters_and_pages(api: Any) -> None:
    await api.add_budget(budget("b", "agent:*"))
    await api.add_budget(budget("u", "user:*", cadence="monthly"))
    for number in range(5):
        await api.spend(f"agent:{number}", number + 1)
    await api.spend("user:ann", 11_000_000_000)

    async def keys(query: str) -> list[str]:
        return [s["scopeKey"] for s in (await api.get(f"/api/dashboard/spend?{query}")).json["scopes"]]

    assert await keys("scopeType=agent&limit=2&offset=1") == ["3", "2"]
    assert await keys("state=degraded") == ["ann"]
    assert await keys("budgetId=u") == ["ann"]
    assert await keys("scopeType=team") == []
    wrong = await api.get("/api/dashboard/spend?state=Sleepy")
    assert (wrong.status, wrong.error["field"]) == (400, "state")


async def test_remaining_is_never_negative(api: Any) -> None:
    await api.add_budget(budget("b", "agent:x"))
    await api.spend("agent:x", 15_000_000_000)
    (row,) = (await api.get("/api/dashboard/spend")).json["scopes"]
    assert (row["remaining"], row["hardRemaining"], row["state"], row["percent"]) == (0, 0, "Stopped", 150)


async def test_history_is_left_out(api: Any) -> None:
    kept = await api.add_budget(budget("b", "agent:x"))
    await api.add_budget(budget("gone", "agent:y"))
    await api.spend("agent:x", 5)
    await api.spend("agent:y", 5)
    await api.store.put("budget", "gone", None)
    reset = Reset("2026-11-23", None, "a new start", api.clock.now_ms())
    await api.add_budget(replace(kept, resets=(reset,)))
    assert (await api.get("/api/dashboard/spend")).json["scopes"] == []
    await api.spend("agent:x", 7)
    assert '"spent":0.000000007' in (await api.get("/api/dashboard/spend")).text
    api.clock.at_ms += DAY_MS
    assert (await api.get("/api/dashboard/spend")).json["scopes"] == []


async def test_top_ups_count_for_their_key(api: Any) -> None:
    now_ms = api.clock.now_ms()
    top_up = TopUp("top_1", "2026-11-23", "x", 5_000_000_000, now_ms + 1000, "launch", now_ms)
    await api.add_budget(budget("b", "agent:*", top_ups=(top_up,)))
    assert (await api.get("/api/dashboard/spend/x")).json["limit"] == 15
    assert (await api.get("/api/dashboard/spend/y")).json["limit"] == 10
    api.clock.at_ms += 1000
    assert (await api.get("/api/dashboard/spend/x")).json["limit"] == 10


async def test_a_paused_budget_still_shows_its_spend(api: Any) -> None:
    found = await api.add_budget(budget("b", "agent:x"))
    await api.spend("agent:x", 5)
    await api.add_budget(replace(found, paused=True))
    (row,) = (await api.get("/api/dashboard/spend")).json["scopes"]
    assert row["inForce"] is False
    assert (await api.get("/api/dashboard/spend/x")).json["inForce"] is False


async def test_a_watched_scope_without_use_has_zeroes(api: Any) -> None:
    await api.add_budget(budget("b", "agent:*"))
    found = await api.get("/api/dashboard/spend/quiet")
    assert found.status == 200
    assert '"spent":0.00,"held":0.00,"limit":10.00,"remaining":10.00' in found.text
    assert len(found.json["scopes"]) == 1


async def test_one_scope_shows_its_tightest_account_first(api: Any) -> None:
    await api.add_budget(budget("day", "agent:x"))
    await api.add_budget(budget("month", "agent:x", 5_000_000_000, cadence="monthly"))
    await api.add_budget(budget("ever", "agent:x", 1_000_000_000_000, cadence="total"))
    await api.spend("agent:x", 4_500_000_000)
    found = (await api.get("/api/dashboard/spend/x?scopeType=agent")).json
    assert found["budgetId"] == "month"
    assert [s["budgetId"] for s in found["scopes"]] == ["month", "day", "ever"]
    assert (found["scopes"][2]["periodStart"], found["scopes"][2]["periodEnd"]) == (None, None)


async def test_types_with_the_key_come_before_wildcards(api: Any) -> None:
    await api.add_budget(budget("b", "agent:*"))
    await api.add_budget(budget("u", "user:*"))
    await api.add_budget(budget("t", "team:x"))

    async def types(key: str) -> set[str]:
        found = (await api.get(f"/api/dashboard/spend/{key}")).json
        return {s["scopeType"] for s in found["scopes"]}

    assert await types("x") == {"team"}
    assert await types("nobody") == {"agent", "user"}
    await api.spend("user:x", 1)
    assert await types("x") == {"team", "user"}


@pytest.mark.parametrize("path", ["a/b%2Fc", "a%2Fb%2Fc"])
async def test_keys_with_slashes(api: Any, path: str) -> None:
    await api.add_budget(budget("b", "agent:a/b/c"))
    assert (await api.get(f"/api/dashboard/spend/{path}")).json["scopeKey"] == "a/b/c"


async def test_a_scope_that_nothing_watches(api: Any) -> None:
    await api.add_budget(budget("b", "agent:x"))
    for path in ("y", "x?scopeType=user"):
        found = await api.get(f"/api/dashboard/spend/{path}")
        assert (found.status, found.error["code"]) == (404, "not_found")
    assert (await api.get("/api/dashboard/spend/*")).status == 400
