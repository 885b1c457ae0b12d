"""The pages of budgets: how full each is, and what its form says."""

import re
from urllib.parse import urlencode

from budget.model import Budget, DowngradeRule
from core.scope import Scope
from tests.dashboard.conftest import Answer, Api
from tests.dashboard.test_pages import logged_in, send

TYPED = {"scopeType": "agent", "scopeKey": "bot", "limitUsd": "10", "cadence": "daily"}


async def post(api: Api, path: str, **fields: str) -> Answer:
    cookie = await logged_in(api)
    page = await send(api, "GET", "/ui/budgets", cookie=cookie)
    token = re.search(r'name="token" value="(\w+)"', page.text)
    assert token
    return await send(api, "POST", path, urlencode({"token": token[1]} | fields), cookie)


async def preview(api: Api, **fields: str) -> str:
    query = urlencode(TYPED | fields)
    return (await send(api, "GET", f"/ui/budgets/preview?{query}", cookie=await logged_in(api))).text


async def test_the_list_says_how_full_each_is(api: Api):
    await api.add_budget(Budget("all", Scope("agent", "*"), 10**9))
    await api.add_budget(Budget("idle", Scope("team", "*"), 10**9))
    await api.add_budget(Budget("off", Scope("user", "*"), 10**9, paused=True))
    await api.spend("agent:some", 10**8)
    await api.spend("agent:most", 9 * 10**8)
    page = (await send(api, "GET", "/ui/budgets", cookie=await logged_in(api))).text
    rows = {row[1]: row[0] for row in re.finditer(r'<tr><td><a href="/ui/budgets/(\w+)">.*?</tr>', page, re.S)}
    assert "Warned" in rows["all"] and ">most</a>" in rows["all"] and "of 2" in rows["all"]
    assert "90 % of the limit" in rows["all"]
    assert "nothing spent" in rows["idle"] and "paused" in rows["off"]
    await api.add_budget(Budget("own", Scope("agent", "most"), 10**9))
    page = (await send(api, "GET", "/ui/budgets", cookie=await logged_in(api))).text
    assert ">some</a>" in page and ">most</a>" not in page, "what stands back behind a budget of its own"


async def test_rules_are_typed_shown_and_taken_back(api: Api):
    made = await post(api, "/ui/budgets", **TYPED, downgrade="dbrx=mixtral, *=mixtral", disabledTools="search, shell")
    assert made.headers["Location"] == "/ui/budgets/agent-bot-daily"
    policy = api.deps.book.get("agent-bot-daily").policy
    assert policy.downgrade == (DowngradeRule("dbrx", "mixtral"), DowngradeRule("*", "mixtral"))
    assert policy.disabled_tools == ("search", "shell")
    shown = (await send(api, "GET", "/ui/budgets/agent-bot-daily", cookie=await logged_in(api))).text
    assert 'value="dbrx=mixtral, *=mixtral"' in shown and 'value="search, shell"' in shown
    assert "dbrx is served by mixtral, any model is served by mixtral" in shown and "search, shell are dropped" in shown
    for text, rules in (("none", ()), ("", None)):
        revision = str(api.deps.book.get("agent-bot-daily").revision)
        await post(api, "/ui/budgets/agent-bot-daily", revision=revision, downgrade=text, disabledTools="")
        policy = api.deps.book.get("agent-bot-daily").policy
        assert (policy.downgrade, policy.disabled_tools) == (rules, ())


async def test_what_is_wrong_is_said_and_what_was_typed_stays(api: Api):
    for wrong, said in (("dbrx", "must look like dbrx=mixtral"), ("dbrx=nothing", "is not usable")):
        refused = await post(api, "/ui/budgets", **TYPED, downgrade=wrong)
        assert refused.status in (400, 422) and said in refused.text
        assert f'name="downgrade" type="text" value="{wrong}" autocomplete="off" aria-invalid="true"' in refused.text
        assert said in await preview(api, downgrade=wrong)
    await api.add_budget(Budget("b", Scope("agent", "x"), 10**9))
    revision = str(api.deps.book.get("b").revision)
    refused = await post(api, "/ui/budgets/b", revision=revision, limitUsd="lots")
    assert 'value="lots"' in refused.text and "must be a decimal number" in refused.text
    late = await post(api, "/ui/budgets/b", revision="0", limitUsd="7")
    assert late.status == 412 and 'value="7"' not in late.text, "what it is by now has to be seen first"


async def test_a_preview_says_what_happens_beyond_the_limit(api: Api):
    assert "go to the fallback of the routes" in await preview(api)
    assert "to no other model" in await preview(api, downgrade="none")
    assert "any model is served by mixtral" in await preview(api, downgrade="*=mixtral")
