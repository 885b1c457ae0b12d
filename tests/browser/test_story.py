"""What a person sees, from the first budget to the refusal that it explains; the docs have their pictures from here."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import Picture, logged_in
from tests.browser.past import AGENTS, DEAR, write_past
from tests.support.gateway import Answer, RunningGateway, running_gateway
from tests.support.ledger import wait_for_ledger
from tests.support.waiting import eventually

PROMPT = "Summarise what our customers asked for this week, by product and by how often. " * 60


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """With a past, and with a day's traffic of all agents but the one that the story is about."""
    folder: Path = tmp_path_factory.mktemp("story")
    write_past(folder / "data", int(time.time() * 1000))
    with running_gateway(folder, SPENDGATE_LEDGER="embedded", BUDGET_DEFAULT_LIMIT="1") as running:
        rates = {"input": "15", "output": "45"}
        price = {"model": DEAR, "usdPerMillionTokens": rates, "reason": "dedicated endpoint, from the contract"}
        assert running.request("POST", "/api/prices", price, key="admin").status == 201
        running.put_budget(scopeType="team", scopeKey="*", limitUsd="40", cadence="monthly")
        for agent, team, calls in AGENTS[1:]:
            for _ in range(calls * 2):
                assert call(running, agent, team).status == 200
        wait_for_ledger(running)
        yield running


def call(gateway: RunningGateway, agent: str, team: str) -> Answer:
    body = {"model": "dbrx", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200}
    return gateway.request(
        "POST", "/v1/chat/completions", body, headers={"X-Budget-Scopes": f"agent:{agent}, team:{team}"}
    )


def test_from_a_budget_to_the_refusal_that_it_explains(gateway: RunningGateway, browser: Browser, picture: Picture):
    with logged_in(gateway, browser) as page:
        make_budget(page, picture)
        page.goto(f"{gateway.url}/ui/scope/agent/research-bot")
        row = page.locator("tr[data-account]").first
        for _ in range(6):
            assert call(gateway, "research-bot", "research").status == 200
        expect(row.locator("[data-cell=spent]")).not_to_have_text("$0.00")
        expect(row.locator("[data-cell=state]")).to_have_text("Active")
        refused = next(a for a in (call(gateway, "research-bot", "research") for _ in range(400)) if a.status == 402)
        expect(row.locator("[data-cell=state]")).to_have_text("Degraded")
        expect(row.locator("[data-cell=share]")).to_have_text(re.compile(r"10\d"))
        eventually(lambda: is_told(gateway, refused), "the ledger has the refusal")
        why_is_told(page, gateway, refused, picture)
        the_scope_tells_it_too(page, gateway, picture)


def is_told(gateway: RunningGateway, answer: Answer) -> bool:
    """Whether the ledger knows how a call ended; of one under way it knows the hold."""
    found = gateway.request("GET", f"/api/explain/{answer.headers['x-request-id']}", key="admin")
    return found.status == 200 and bool(found.json["calls"])


def make_budget(page: Page, picture: Picture) -> None:
    """In the form, with a preview of what it does."""
    page.get_by_role("link", name="Budgets").click()
    page.get_by_label("Scope key").fill("research-bot")
    page.get_by_label("Limit, US dollars").fill("0.50")
    page.get_by_label("Stopped at").fill("1.05")
    expect(page.get_by_text("agent:research-bot is Warned above $0.40")).to_be_visible()
    picture(page, "budgets")
    page.get_by_role("button", name="Create budget").click()
    expect(page.get_by_role("heading", name="agent-research-bot-daily")).to_be_visible()


def why_is_told(page: Page, gateway: RunningGateway, refused: Answer, picture: Picture) -> None:
    """The page of the refused request names the account and what was missing."""
    page.goto(f"{gateway.url}/ui/request/{refused.headers['x-request-id']}")
    expect(page.get_by_role("heading", name="Why did this request end as it did?")).to_be_visible()
    told = page.locator(".callout")
    expect(told).to_contain_text("refused")
    expect(told).to_contain_text("agent-research-bot-daily")
    expect(told).to_contain_text("the least that the call needed was $0.")
    picture(page, "request")


def the_scope_tells_it_too(page: Page, gateway: RunningGateway, picture: Picture) -> None:
    page.goto(f"{gateway.url}/ui/scope/agent/research-bot?range=7d")
    changes = page.get_by_role("region", name="Changes of state")
    expect(changes).to_contain_text("Warned → ▼ Degraded")
    expect(page.locator("[data-chart=spend] svg")).to_be_visible()
    expect(page.get_by_role("region", name="Calls", exact=True)).to_contain_text("agent-research-bot-daily")
    picture(page, "scope")


def test_the_overview_counts_what_the_api_counts(gateway: RunningGateway, browser: Browser, picture: Picture):
    with logged_in(gateway, browser) as page:
        page.goto(f"{gateway.url}/ui?range=7d")
        expect(page.get_by_text("History: known until now")).to_be_visible()
        scopes = gateway.request("GET", "/api/dashboard/spend?scopeType=team", key="admin").json["scopes"]
        for scope in scopes:
            row = page.locator("tr", has=page.get_by_role("link", name=f"team:{scope['scopeKey']}", exact=True))
            expect(row.locator("[data-cell=spent]")).to_have_attribute("title", f"${scope['spent']}")
        columns = page.locator("section[aria-labelledby=now] thead")
        expect(columns).to_contain_text("Chance to run over")
        picture(page, "overview")


def test_filters_stand_in_the_url_and_narrow_every_part(gateway: RunningGateway, browser: Browser):
    with logged_in(gateway, browser) as page:
        page.goto(f"{gateway.url}/ui?range=7d")
        everything = int(figure(page, "Calls"))
        page.get_by_text("Filter", exact=False).first.click()
        page.get_by_label("Scope", exact=True).fill("team:support")
        page.get_by_role("button", name="Show").click()
        expect(page).to_have_url(re.compile(r"scope=team%3Asupport"))
        assert "model=" not in page.url, "what is not set does not stand in the URL"
        support = int(figure(page, "Calls"))
        assert 0 < support < everything
        rows = page.get_by_role("region", name="Spend by agent").locator("tbody tr")
        assert set(rows.locator("td:first-child").all_inner_texts()) == {"support-bot", "summarizer"}
        page.get_by_label("Outcome").select_option("downgraded")
        expect(page).to_have_url(re.compile(r"outcome=downgraded"))
        assert figure(page, "Calls") == figure(page, "Downgraded") != str(support)
        page.get_by_role("link", name="30 days").click()
        expect(page).to_have_url(re.compile(r"(?=.*range=30d)(?=.*outcome=downgraded)(?=.*scope=team%3Asupport)"))
        page.get_by_role("link", name="Clear all filters").click()
        assert int(figure(page, "Calls")) == everything


def figure(page: Page, name: str) -> str:
    """The number under a name, without commas."""
    card = page.locator(".figures div", has=page.locator("dt", has_text=re.compile(f"^{name}$")))
    return card.locator("dd").first.inner_text().replace(",", "")


def test_figures_are_renewed_while_the_page_stays_open(gateway: RunningGateway, browser: Browser):
    with logged_in(gateway, browser) as page:
        page.goto(f"{gateway.url}/ui?range=7d&scope=agent:late")
        assert figure(page, "Calls") == "0"
        answer = call(gateway, "late", "night")
        eventually(lambda: is_told(gateway, answer), "the ledger has the call")
        page.evaluate("htmx.trigger('#fresh', 'renew')")
        expect(page.locator("#figures dd").nth(6)).to_have_text("1")
        expect(page.locator("#fresh")).to_contain_text("History: known until now")
        with page.expect_response("**/ui/events"):  # live numbers are on their way before the session ends
            page.reload()
        page.context.clear_cookies()
        page.evaluate("htmx.trigger('#fresh', 'renew')")
        expect(page.get_by_label("Admin key")).to_be_visible()


def test_a_table_is_sorted_by_the_keyboard_and_downloaded(gateway: RunningGateway, browser: Browser):
    with logged_in(gateway, browser) as page:
        page.goto(f"{gateway.url}/ui?range=7d")
        table = page.get_by_role("region", name="Spend by agent")
        by_name = table.get_by_role("button", name="Agent")
        by_name.focus()
        by_name.press("Enter")
        by_name.press("Enter")
        assert table.locator("th").first.get_attribute("aria-sort") == "ascending"
        names = table.locator("tbody td:first-child").all_inner_texts()
        assert names == sorted(names) and {name for name, _, _ in AGENTS} <= set(names)
        with page.expect_download() as download:
            page.locator(".beside").get_by_role("button", name="Download as CSV").click()
        lines = Path(download.value.path()).read_text().splitlines()
        assert lines[0] == '"Agent","US dollars","Share","Tokens"'
        assert [line.split(",")[0] for line in lines[1:]] == [f'"{name}"' for name in names]


def test_a_price_is_set_and_ended_on_its_page(gateway: RunningGateway, browser: Browser, picture: Picture):
    with logged_in(gateway, browser) as page:
        page.get_by_role("link", name="Models", exact=True).click()
        page.locator("select[name=model]").select_option("databricks-gpt-oss-20b")
        page.locator("input[name=input]").fill("0.05")
        page.locator("input[name=output]").fill("0.20")
        page.get_by_label("From, UTC").fill("2099-01-01T00:00")
        page.locator("input[name=reason]").fill("next year's list")
        page.get_by_role("button", name="Set price").click()
        history = page.get_by_role("region", name="Price history")
        row = history.locator("tr", has_text="next year's list")
        expect(row).to_contain_text("to come")
        picture(page, "models", whole=True)
        row.get_by_role("button", name="Withdraw").click()
        expect(row).to_contain_text("withdrawn")
        expect(row.get_by_role("button")).to_have_count(0)
