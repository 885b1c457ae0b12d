"""/api/prices: history, and overrides that people set."""

import re
from typing import Any

import pytest

from core.keys import KeyRole
from tests.dashboard.conftest import NOON_MS, Api
from tests.dashboard.test_pages import logged_in, send

SPEC: dict[str, Any] = {
    "model": "dbrx",
    "usdPerMillionTokens": {"input": "0.5", "output": 1.5},
    "reason": "a discount",
}


async def versions(api: Api) -> list[tuple[str, bool]]:
    found = (await api.get("/api/prices?model=dbrx")).json["prices"]
    return [(row["priceVersion"], row["inForce"]) for row in found]


async def test_an_override_from_now_on_and_its_end(api: Api):
    made = await api.post("/api/prices", SPEC)
    assert made.status == 201
    assert made.json["usdPerMillionTokens"] == {
        "input": 0.5,
        "cachedInput": 0.5,
        "cacheWrite": 0.5,
        "output": 1.5,
        "reasoning": 1.5,
    }
    assert (made.json["reason"], made.json["endsAt"], made.json["inForce"]) == ("a discount", None, True)
    assert api.deps.prices.price_at("dbrx", NOON_MS).input_pico == 500_000
    assert api.deps.prices.price_at("dbrx", NOON_MS - 1).input_pico == 750_000
    version = f"dbrx@{made.json['id']}"
    assert await versions(api) == [("dbrx@2024-01-01", False), (version, True)]
    models = {m["name"]: m for m in (await api.get("/api/models")).json["models"]}
    assert models["dbrx"]["priceVersion"] == version
    api.clock.at_ms += 60_000
    ended = await api.post(f"/api/prices/{made.json['id']}/end", None)
    assert ended.status == 200 and ended.json["endsAt"] == "2026-11-23T12:01:00.000Z"
    assert await versions(api) == [("dbrx@2024-01-01", True), (version, False)]
    api.clock.at_ms += 60_000
    again = await api.post(f"/api/prices/{made.json['id']}/end", None)
    assert again.json["endsAt"] == ended.json["endsAt"], "what is over stays as it was"


async def test_one_that_is_to_come_and_is_withdrawn(api: Api):
    made = await api.post("/api/prices", SPEC | {"effectiveFrom": "2026-11-24T00:00:00+01:00"})
    assert made.json["effectiveFrom"] == "2026-11-23T23:00:00.000Z" and not made.json["inForce"]
    ended = await api.post(f"/api/prices/{made.json['id']}/end", None)
    assert ended.json["endsAt"] == ended.json["effectiveFrom"]
    api.clock.at_ms += 24 * 3_600_000
    assert (await versions(api))[0] == ("dbrx@2024-01-01", True)


async def test_an_alias_stands_for_its_model_and_a_price_makes_a_model_usable(api: Api):
    assert (await api.post("/api/prices", SPEC | {"model": "big"})).json["model"] == "dbrx"
    assert (await api.post("/api/prices", SPEC | {"model": "mystery"})).status == 201
    models = {m["name"]: m for m in (await api.get("/api/models")).json["models"]}
    assert models["mystery"]["priced"]


@pytest.mark.parametrize(
    ("change", "field", "rule"),
    [
        ({"model": "nobody"}, "model", "is not in the routes"),
        ({"usdPerMillionTokens": {"output": 1}}, "usdPerMillionTokens.input", "Field required"),
        ({"usdPerMillionTokens": {"input": "-1"}}, "usdPerMillionTokens.input", "negative"),
        ({"usdPerMillionTokens": {"input": "ten"}}, "usdPerMillionTokens.input", "decimal number"),
        ({"usdPerMillionTokens": {"input": 1, "cachedInput": "1e7"}}, "usdPerMillionTokens.cachedInput", "at most"),
        ({"usdPerRequest": "NaN"}, "usdPerRequest", "finite"),
        ({"reason": ""}, "reason", "at least 1 character"),
        ({"effectiveFrom": "2026-11-23T11:59:59Z"}, "effectiveFrom", "must not be in the past"),
        ({"effectiveFrom": "tomorrow"}, "effectiveFrom", "ISO 8601"),
        ({"endsAt": "2026-11-23T12:00:00Z"}, "endsAt", "must be after"),
    ],
)
async def test_what_is_wrong_is_named(api: Api, change: dict[str, Any], field: str, rule: str):
    answer = await api.post("/api/prices", SPEC | change)
    assert (answer.status, answer.error["field"]) == (400, field)
    assert rule in answer.error["message"]
    assert api.deps.prices.overrides() == []


async def test_ending_what_is_not_there(api: Api):
    assert (await api.post("/api/prices/prc_nothing/end", None)).status == 404


async def test_an_agents_key_sets_no_price(api: Api):
    _, agent = await api.add_key(KeyRole.AGENT)
    answer = await api.post("/api/prices", SPEC, Authorization=f"Bearer {agent}")
    assert answer.status == 403


async def test_the_page_sets_a_price_shows_it_and_ends_it(api: Api):
    cookie = await logged_in(api)
    page = await send(api, "GET", "/ui/models", cookie=cookie)
    token = re.search(r'name="token" value="([0-9a-f]+)"', page.text)
    assert token and "No price: calls are refused" in page.text, "mystery has none"
    form = f"token={token[1]}&zone=UTC&model=dbrx&input=0.5&output=1.5&reason=a+discount"
    set_price = await send(api, "POST", "/ui/models/prices", form, cookie)
    assert (set_price.status, set_price.headers["Location"]) == (303, "/ui/models")
    (override,) = api.deps.prices.overrides()
    assert (override.price.output_pico, override.reason) == (1_500_000, "a discount")
    shown = await send(api, "GET", "/ui/models", cookie=cookie)
    assert "Override: a discount" in shown.text and '<span class="tag on">override</span>' in shown.text
    end = f"/ui/models/prices/{override.id}/end"
    assert (await send(api, "POST", end, "token=nonsense", cookie)).status == 403
    assert (await send(api, "POST", end, f"token={token[1]}", cookie)).status == 303
    (over,) = api.deps.prices.overrides()
    assert over.ends_ms == NOON_MS


async def test_the_form_says_what_is_wrong_and_keeps_what_was_typed(api: Api):
    cookie = await logged_in(api)
    page = await send(api, "GET", "/ui/models", cookie=cookie)
    token = re.search(r'name="token" value="([0-9a-f]+)"', page.text)
    assert token
    form = f"token={token[1]}&zone=Europe/Berlin&model=dbrx&input=lots&reason=<b>&effectiveFrom=2026-11-24T08:00"
    answer = await send(api, "POST", "/ui/models/prices", form, cookie)
    assert answer.status == 400 and "must be a decimal number" in answer.text
    assert 'value="lots"' in answer.text and 'value="&lt;b&gt;"' in answer.text
    form = form.replace("lots", "1")
    assert (await send(api, "POST", "/ui/models/prices", form, cookie)).status == 303
    (override,) = api.deps.prices.overrides()
    assert override.price.effective_from_ms == NOON_MS + 19 * 3_600_000, "08:00 in Berlin"
