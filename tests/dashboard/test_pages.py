"""The pages: who gets in, what a form may do, what they show with and without a ledger."""

import re

import pytest

from budget.model import Budget
from core.keys import KeyRole
from core.scope import Scope
from dashboard.session import COOKIE, LIFE_S, LONGEST_S
from tests.dashboard.conftest import Answer, Api

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def send(api: Api, method: str, path: str, form: str = "", cookie: str = "", **headers: str) -> Answer:
    sent = FORM | {name.replace("_", "-"): value for name, value in headers.items()}
    if cookie:
        sent["Cookie"] = f"{COOKIE}={cookie}"
    async with api.session.request(
        method, api.base + path, data=form or None, headers=sent, allow_redirects=False
    ) as response:
        return Answer(response.status, response.headers, await response.text())


async def logged_in(api: Api) -> str:
    answer = await send(api, "POST", "/login", f"key={api.admin_text}")
    found = re.match(rf"{COOKIE}=([^;]+); ", answer.headers["Set-Cookie"])
    assert answer.status == 303 and answer.headers["Location"] == "/ui" and found
    return found[1]


async def test_a_stranger_is_asked_for_the_key_and_brought_back(api: Api):
    answer = await send(api, "GET", "/ui/scope/agent/a?range=7d")
    assert answer.status == 303
    assert answer.headers["Location"] == "/login?after=%2Fui%2Fscope%2Fagent%2Fa%3Frange%3D7d"
    form = await send(api, "GET", answer.headers["Location"])
    assert 'value="/ui/scope/agent/a?range=7d"' in form.text
    entered = await send(api, "POST", "/login", f"key={api.admin_text}&after=/ui/scope/agent/a?range=7d")
    assert entered.headers["Location"] == "/ui/scope/agent/a?range=7d"


@pytest.mark.parametrize("after", ["https://evil.example", "//evil.example", "/\\evil", "javascript:1", "/api/keys"])
async def test_the_login_leads_to_our_pages_only(api: Api, after: str):
    answer = await send(api, "POST", "/login", f"key={api.admin_text}&after={after}")
    assert answer.headers["Location"] == "/ui"


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(api: Api):
    answer = await send(api, "POST", "/login", f"key={api.admin_text}")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and f"Max-Age={LIFE_S}" in cookie
    assert api.admin_text not in cookie


async def test_a_wrong_key_and_an_agents_key(api: Api):
    _, agent = await api.add_key(KeyRole.AGENT)
    for key, status in (("sg_admin_nonsense", 401), (agent, 403), ("", 401)):
        answer = await send(api, "POST", "/login", f"key={key}")
        assert answer.status == status and "Set-Cookie" not in answer.headers and 'role="alert"' in answer.text


async def test_a_session_ends_by_time_and_with_its_key(api: Api):
    cookie = await logged_in(api)
    assert (await send(api, "GET", "/ui", cookie=cookie)).status == 200
    api.clock.at_ms += LIFE_S * 1000
    assert (await send(api, "GET", "/ui", cookie=cookie)).status == 303
    cookie = await logged_in(api)
    (key,) = api.deps.keys.all()
    api.deps.keys.remove(key.id)
    assert (await send(api, "GET", "/ui", cookie=cookie)).status == 303


async def test_pages_put_the_end_of_a_session_off_but_not_for_ever(api: Api):
    cookie, hours = await logged_in(api), 0
    form = re.search(r'name="token" value="(\w+)"', (await send(api, "GET", "/ui", cookie=cookie)).text)
    assert form
    while (answer := await send(api, "GET", "/ui", cookie=cookie)).status == 200:
        renewed = re.match(rf"{COOKIE}=([^;]+); ", answer.headers.get("Set-Cookie", ""))
        cookie = renewed[1] if renewed else cookie
        assert f'value="{form[1]}"' in answer.text  # a form that was open all the while can still be sent
        hours += 1
        api.clock.at_ms += 3_600_000
    assert hours == LONGEST_S // 3600


TAMPERED = [
    lambda c: c[:-1] + ("0" if c[-1] != "0" else "1"),
    lambda c: "x" + c,
    lambda _: "a.b.c",
    lambda _: "a.b.c.d",
]


@pytest.mark.parametrize("change", TAMPERED)
async def test_a_cookie_that_was_tampered_with(api: Api, change):
    assert (await send(api, "GET", "/ui", cookie=change(await logged_in(api)))).status == 303


async def test_a_longer_life_can_not_be_written_into_it(api: Api):
    key_id, begun, until, signature = (await logged_in(api)).split(".")
    assert (await send(api, "GET", "/ui", cookie=f"{key_id}.{begun}.{int(until) + 1}.{signature}")).status == 303


async def test_forms_of_other_sites_do_nothing(api: Api):
    cookie = await logged_in(api)
    token = re.search(r'name="token" value="(\w+)"', (await send(api, "GET", "/ui", cookie=cookie)).text)
    assert token
    for form, headers in (("", {}), ("token=0", {}), (f"token={token[1]}", {"Origin": "https://evil.example"})):
        answer = await send(api, "POST", "/logout", form, cookie, **headers)
        assert answer.status == 403 and "Set-Cookie" not in answer.headers
    answer = await send(api, "POST", "/logout", f"token={token[1]}", cookie, Origin=api.base)
    assert answer.status == 303 and 'spendgate_session="";' in answer.headers["Set-Cookie"]
    other = await send(api, "POST", "/login", f"key={api.admin_text}", Origin="https://evil.example")
    assert other.status == 403 and "Set-Cookie" not in other.headers


async def test_nothing_from_elsewhere_is_loaded_or_run(api: Api):
    answer = await send(api, "GET", "/ui", cookie=await logged_in(api))
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'self';" in policy and "unsafe" not in policy
    assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text)
    assert "<style" not in answer.text and " style=" not in answer.text and " onclick" not in answer.text
    for asset in re.findall(r'(?:src|href)="(/ui/static/[^"]+)"', answer.text):
        found = await send(api, "GET", asset)
        assert found.status == 200 and "immutable" in found.headers["Cache-Control"]
        older = await send(api, "GET", asset.partition("?")[0] + "?v=older")
        assert older.headers["Cache-Control"] == "no-cache"
    cookie = await logged_in(api)
    assert (await send(api, "GET", "/ui/static/../app.py", cookie=cookie)).status == 404
    assert (await send(api, "GET", "/ui/static/%2e%2e/app.py", cookie=cookie)).status == 404


async def test_without_a_ledger_the_live_numbers_are_there(api: Api):
    await api.add_budget(Budget("b", Scope("agent", "bot"), 10 * 10**9))
    await api.spend("agent:bot", 85 * 10**8)
    page = await send(api, "GET", "/ui", cookie=await logged_in(api))
    assert page.status == 200 and "SPENDGATE_LEDGER" in page.text
    assert "$8.50" in page.text and "Warned" in page.text and "agent:bot" in page.text
    scope = await send(api, "GET", "/ui/scope/agent/bot", cookie=await logged_in(api))
    assert "$8.50" in scope.text


async def test_names_can_not_become_markup(api: Api):
    name = "<script>alert(1)</script>"
    await api.add_budget(Budget("b", Scope("agent", name), 10**9))
    await api.spend(f"agent:{name}", 10**8)
    page = await send(api, "GET", "/ui", cookie=await logged_in(api))
    assert "<script>alert" not in page.text and "&lt;script&gt;alert" in page.text


async def test_what_is_not_there_and_what_is_not_understood(api: Api):
    cookie = await logged_in(api)
    gone = await send(api, "GET", "/ui/request/req_none", cookie=cookie)
    assert gone.status == 503 and "switched off" in gone.text
    wrong = await send(api, "GET", "/ui?range=never", cookie=cookie)
    assert wrong.status == 400
    assert "must be one of 24h" in wrong.text
    zone = await send(api, "GET", "/ui?zone=Mars/Olympus", cookie=cookie)
    assert zone.status == wrong.status and "zone" in zone.text
    nowhere = await send(api, "GET", "/ui/nowhere", cookie=cookie)
    assert nowhere.status == 404 and "<h1>Not found</h1>" in nowhere.text
    assert (await send(api, "GET", "/ui/nowhere")).headers["Location"] == "/login?after=%2Fui%2Fnowhere"


async def test_times_are_those_of_the_viewer(api: Api):
    entered = await send(api, "POST", "/login", f"key={api.admin_text}&zone=Asia/Kolkata")
    session, zone = entered.headers.getall("Set-Cookie")
    assert "HttpOnly" in zone and "SameSite=strict" in zone
    cookie = session.partition(";")[0].partition("=")[2]
    for kept, query, told in (
        (zone.partition(";")[0], "", "17:30:00"),
        (zone.partition(";")[0], "?zone=Europe/Berlin", "13:00:00"),
        ("spendgate_zone=Mars", "", "12:00:00"),
    ):
        page = await send(api, "GET", f"/ui{query}", cookie=f"{cookie}; {kept}")
        assert f"known until now, 23 Nov {told}" in page.text
    assert "From, Asia/Kolkata" in (await send(api, "GET", "/ui/models", cookie=f"{cookie}; {zone}")).text


@pytest.mark.parametrize(
    ("typed", "page"),
    [
        ("req_1", "/ui/request/req_1"),
        ("team:ml", "/ui/scope/team/ml"),
        ("a-bot", "/ui/scope/agent/a-bot"),
        ("a/b%3Fc%23d", "/ui/scope/agent/a%2Fb%3Fc%23d"),
        ("user:%C3%A4", "/ui/scope/user/%C3%A4"),
        ("+", "/ui"),
    ],
)
async def test_find(api: Api, typed: str, page: str):
    answer = await send(api, "GET", f"/ui/find?q={typed}", cookie=await logged_in(api))
    assert answer.headers["Location"] == page


async def test_every_page_is_there(api: Api):
    cookie = await logged_in(api)
    for path in ("/ui", "/ui/budgets", "/ui/models"):
        answer = await send(api, "GET", path, cookie=cookie)
        assert answer.status == 200 and "<h1>" in answer.text
    assert (await send(api, "GET", "/")).headers["Location"] == "/ui"


async def test_explain_needs_the_admin_key_and_a_ledger(api: Api):
    assert (await api.get("/api/explain/req_1")).status == 503
    assert (await api.call("GET", "/api/explain/req_1", Authorization="Bearer nonsense")).status == 401
