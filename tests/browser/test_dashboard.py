"""The pages in a real Chromium, before a real gateway: a person logs in, sees money move, a state change, and why a
call was refused."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import logged_in
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.ledger import wait_for_ledger

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
#: The texts of the limits, and where their points are.
POINTS = """() => {
  const cells = [...document.querySelectorAll("tr[data-account] > td:nth-child(5)")];
  return [cells.map((cell) => cell.textContent), cells.map((cell) => {
    const range = document.createRange();
    range.setStart(cell.firstChild, 0);
    range.setEnd(cell.firstChild, cell.textContent.indexOf("."));
    return range.getBoundingClientRect().right;
  })];
}"""
PATHS = [
    *("/ui", "/ui?outcome=answered", "/ui/scope/agent/walker", "/ui/budgets", "/ui/budgets/default", "/ui/models"),
    "/ui/what-if",
]


@pytest.fixture(scope="module")
def gateway() -> Iterator[RunningGateway]:
    with running_gateway(SPENDGATE_LEDGER="embedded", BUDGET_DEFAULT_LIMIT="5") as running:
        for _ in range(3):
            running.chat(agent="walker")
        wait_for_ledger(running)
        yield running


@pytest.fixture
def page(gateway: RunningGateway, browser: Browser) -> Iterator[Page]:
    with logged_in(gateway, browser) as opened:
        yield opened


def test_money_moves_while_one_looks(page: Page, gateway: RunningGateway):
    gateway.put_budget(scopeType="agent", scopeKey="mover", limitUsd="0.003", hardCap="1.6", softCap="0.5")
    gateway.chat(agent="mover", maxTokens=50)
    page.goto(f"{gateway.url}/ui/scope/agent/mover")
    row = page.locator("tr[data-account]").first
    before = row.locator("[data-cell=spent]").inner_text()
    expect(row.locator("[data-cell=state]")).to_have_text("Active")
    refused = next(a for a in (gateway.chat(agent="mover", maxTokens=200) for _ in range(60)) if a.status == 402)
    expect(row.locator("[data-cell=spent]")).not_to_have_text(before)
    expect(row.locator("[data-cell=state]")).to_have_text("Degraded")
    request_id = refused.headers["x-request-id"]
    found = page.locator("h1", has_text="Why did this request end as it did?")
    for _ in range(20):  # the ledger is a moment behind
        page.goto(f"{gateway.url}/ui/request/{request_id}")
        if found.is_visible():
            break
        page.wait_for_timeout(250)
        page.goto(f"{gateway.url}/ui")
    expect(page.get_by_text("the least that the call needed was")).to_be_visible()
    page.goto(f"{gateway.url}/ui/scope/agent/mover")
    expect(
        page.get_by_text(re.compile(r"Degraded: agent:mover is at \d+ % of its daily \$0\.003")).first
    ).to_be_visible()
    expect(page.locator("[data-chart=spend] svg")).to_be_visible()


def test_a_budget_is_made_changed_and_topped_up(page: Page, gateway: RunningGateway):
    page.get_by_role("link", name="Budgets").click()
    page.get_by_label("Scope key").fill("typed")
    page.get_by_label("Limit, US dollars").fill("ten")
    expect(page.get_by_text("must be a decimal number")).to_be_visible()
    page.get_by_label("Limit, US dollars").fill("10")
    expect(page.get_by_text("agent:typed is Warned above $8.00")).to_be_visible()
    page.get_by_role("button", name="Create budget").click()
    expect(page.get_by_role("heading", name="agent-typed-daily")).to_be_visible()
    gateway.request("POST", "/api/budgets/agent-typed-daily/top-up", {"amountUsd": "1", "reason": "x"}, key="admin")
    page.get_by_label("Limit, US dollars").fill("20")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_contain_text("read it again")
    page.reload()
    page.goto(f"{gateway.url}/ui/budgets/agent-typed-daily")
    page.get_by_label("Limit, US dollars").fill("20")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("agent:typed is Warned above $16.00")).to_be_visible()
    page.get_by_label("Amount, US dollars").fill("2.5")
    page.get_by_label("Reason").fill("a launch")
    page.get_by_role("button", name="Top up").click()
    expect(page.get_by_text("Topped up by $2.50")).to_be_visible()
    page.get_by_role("button", name="Pause it").click()
    expect(page.get_by_text("It is paused and limits nothing")).to_be_visible()
    budget = gateway.request("GET", "/api/budgets/agent-typed-daily", key="admin").json
    assert (budget["limitUsd"], budget["paused"], len(budget["topUps"])) == ("20.00", True, 2)


def test_who_begins_to_spend_appears_by_itself_and_what_one_has_set_stays(page: Page, gateway: RunningGateway):
    page.goto(f"{gateway.url}/ui?range=7d")
    budgets, spend = (page.get_by_role("region", name=name) for name in ("Budgets now", "Spend by agent"))
    expect(budgets).to_contain_text("agent:walker")
    for _ in range(2):
        spend.get_by_role("button", name="Tokens").press("Enter")
    page.evaluate("window.loaded = 'once'")
    gateway.chat(agent="latecomer")
    expect(budgets).to_contain_text("agent:latecomer", timeout=20_000)
    expect(spend).to_contain_text("latecomer", timeout=20_000)
    assert spend.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    assert page.evaluate("document.activeElement.textContent") == "Tokens"
    assert page.evaluate("window.loaded") == "once", "nothing was loaded anew but what has changed"
    assert page.locator("[data-chart=spend] svg").count() == 1
    assert page.locator("button.download").count() == page.locator("table").count()


def test_amounts_stand_with_their_points_below_each_other(page: Page, gateway: RunningGateway):
    gateway.put_budget(scopeType="agent", scopeKey="small", limitUsd="0.003")
    gateway.chat(agent="small", maxTokens=20)
    page.goto(f"{gateway.url}/ui")
    rows = page.locator("tr[data-account]")
    expect(rows.filter(has_text="agent:small")).to_be_visible()
    texts, points = page.evaluate(POINTS)
    assert {"$0.003000", "$5.00"} <= set(texts)
    assert max(points) - min(points) < 1, list(zip(texts, points, strict=True))


def test_times_are_those_of_the_viewers_clock(gateway: RunningGateway, browser: Browser):
    context = browser.new_context(timezone_id="Europe/Berlin")
    page = context.new_page()
    page.goto(gateway.url)
    page.get_by_label("Admin key").fill(gateway.admin_key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("times in Europe/Berlin")).to_be_visible()
    context.close()


def test_a_lost_connection_is_told_and_an_error_stays_on_screen(gateway: RunningGateway, browser: Browser):
    context = browser.new_context()
    page = context.new_page()
    page.goto(gateway.url)
    page.get_by_label("Admin key").fill(gateway.admin_key)
    page.get_by_role("button", name="Log in").click()
    note = page.get_by_text("The connection is lost")
    expect(page.get_by_role("region", name="Budgets now")).to_be_visible()
    expect(note).to_be_hidden()
    page.route("**/ui/events", lambda route: route.abort())
    page.reload()
    expect(note).to_be_visible()
    page.unroute("**/ui/events")
    expect(note).to_be_hidden(timeout=20_000)
    page.route("**/ui?*", lambda route: route.fulfill(status=503))
    page.evaluate("htmx.trigger('#fresh', 'renew')")
    expect(note).to_be_visible()
    page.unroute("**/ui?*")
    page.evaluate("htmx.trigger('#fresh', 'renew')")
    expect(note).to_be_hidden()
    page.goto(f"{gateway.url}/ui?range=never")
    page.evaluate("window.loaded = 'once'")
    gateway.chat(agent="walker")
    page.wait_for_timeout(2_500)  # nothing is to happen
    assert page.evaluate("window.loaded") == "once"
    context.close()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_stands_in_the_way_of_anybody(page: Page, gateway: RunningGateway, path: str, scheme: str):
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(gateway.url + path)
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")["violations"]
    serious = [
        (v["id"], [n["html"][:120] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


@pytest.mark.parametrize("path", PATHS)
def test_no_page_is_wider_than_a_phone(page: Page, gateway: RunningGateway, path: str):
    page.set_viewport_size({"width": 360, "height": 800})
    page.goto(gateway.url + path)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_call_is_tried_and_the_past_replayed(page: Page, gateway: RunningGateway):
    page.goto(f"{gateway.url}/ui/scope/agent/walker")
    page.get_by_role("link", name="What if?").click()
    page.get_by_label("Text of the request").fill("Hello")
    page.get_by_role("button", name="Try it").click()
    expect(page.get_by_text("Served as asked")).to_be_visible()
    expect(page.get_by_text("it can cost")).to_be_in_viewport()
    page.goto(f"{gateway.url}/ui/budgets/default")
    page.get_by_role("link", name="What if it had been another?").click()
    page.get_by_label("Limit, US dollars").fill("0.000001")
    page.evaluate(
        "document.querySelector('[data-slow]').addEventListener('submit', (e) => e.preventDefault(), {once: 1})"
    )
    page.get_by_role("button", name="Replay").click()
    button = page.get_by_role("button", name="Replaying…")
    expect(button).to_be_disabled()
    button.evaluate("(one) => { one.disabled = false; }")
    button.click()
    expect(page.get_by_text("It would have been", exact=True)).to_be_visible()
    expect(page.locator("[data-chart=compare] svg")).to_be_visible()
    page.evaluate(AXE)
    found = page.evaluate("axe.run()")["violations"]
    assert [v["id"] for v in found if v["impact"] in ("serious", "critical")] == []


def test_it_reads_without_scripts(gateway: RunningGateway, browser: Browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(gateway.url)
    page.get_by_label("Admin key").fill(gateway.admin_key)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("link", name="agent:walker")).to_be_visible()
    expect(page.get_by_role("columnheader", name="US dollars")).to_be_visible()
    context.close()
