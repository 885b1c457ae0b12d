"""How soon the pages are there, before a ledger of a million records.

    python -m bench.pages                    # writes docs/pages-table.md
    python -m bench.pages --records 10000000

A ledger of 90 days that end now, and a gateway with a hundred agents and ten teams, each with an account. Two figures
of each page: what the server takes, from the request to the last byte; and what a person waits, in a Chromium with
nothing in its cache, until the page stands with its charts drawn. The first view of all is told by itself: the gateway
has just started, and nothing has been asked of the ledger yet.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.cookiejar import CookieJar
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from bench.ledger.fill import DAYS, fill
from bench.ledger.traffic import AGENTS, TEAMS
from bench.speed.table import table
from tests.browser.conftest import ARGUMENTS
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.ledger import wait_for_ledger
from tests.support.needs import require_binary

_DAY_MS = 86_400_000
_TIMES = 7
_DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "pages-table.md"
_PAGES = {
    "overview, 24 hours": "/ui",
    "overview, 7 days": "/ui?range=7d",
    "overview, 30 days": "/ui?range=30d",
    "overview, 90 days": "/ui?range=90d",
    "overview, 30 days of Kolkata, one team": "/ui?range=30d&zone=Asia/Kolkata&scope=team:team3",
    "an agent, 30 days": "/ui/scope/agent/agent7?range=30d",
    "a team, 90 days": "/ui/scope/team/team3?range=90d",
    "budgets": "/ui/budgets",
    "one budget": "/ui/budgets/agents",
    "models and prices": "/ui/models",
}
#: When the charts were drawn; on a page without them, when its own script had run.
_STOOD = """document.querySelector('[data-chart]')
    ? performance.getEntriesByName('drawn')[0]?.startTime
    : performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"""
_PAINTED = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


@contextmanager
def company(records: int) -> Iterator[RunningGateway]:
    """A gateway with a past of so many cost records, and a present in which every agent has called once."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "data" / "ledger").mkdir(parents=True)
        start_ms = int(time.time() * 1000) - DAYS * _DAY_MS
        fill(folder / "data" / "ledger" / "main.duckdb", records, lambda done: _tell(f"{done:,}"), start_ms).close()
        with running_gateway(folder, SPENDGATE_LEDGER="embedded", BUDGET_DEFAULT_LIMIT="1") as gateway:
            gateway.put_budget(id="agents", scopeType="agent", scopeKey="*", limitUsd="100", cadence="monthly")
            gateway.put_budget(id="teams", scopeType="team", scopeKey="*", limitUsd="1000", cadence="monthly")
            for number in range(AGENTS):
                names = {"X-Budget-Scopes": f"agent:agent{number}, team:team{number % TEAMS}"}
                body = {"model": "dbrx", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 20}
                gateway.request("POST", "/v1/chat/completions", body, headers=names)
            wait_for_ledger(gateway, 120)
            yield gateway


def served_ms(gateway: RunningGateway, path: str, opener: urllib.request.OpenerDirector) -> float:
    """From the request to the last byte of the page."""
    began_s = time.perf_counter()
    with opener.open(gateway.url + path, timeout=60) as answer:
        answer.read()
    return (time.perf_counter() - began_s) * 1000


def seen_ms(gateway: RunningGateway, path: str, known: BrowserContext, browser: Browser) -> tuple[float, float]:
    """First painted, and standing with its charts, by the browser's own clock. known: has logged in."""
    context = browser.new_context(storage_state=known.storage_state(), viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(gateway.url + path)
    painted_ms, stood_ms = _when(page, _PAINTED), _when(page, _STOOD)
    context.close()
    return painted_ms, max(painted_ms, stood_ms)


def _when(page: Page, what: str) -> float:
    """Milliseconds; the pages' policy forbids Playwright's own way to wait for an expression."""
    while not (at_ms := page.evaluate(what)):
        page.wait_for_timeout(10)
    return float(at_ms)


def measured(gateway: RunningGateway, browser: Browser) -> list[list[str]]:
    """A row for each page: medians, and the slowest that anybody waited."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    opener.open(gateway.url + "/login", urllib.parse.urlencode({"key": gateway.admin_key}).encode()).read(0)
    known = browser.new_context()
    page = known.new_page()
    page.goto(gateway.url + "/login?after=/ui/models")
    page.get_by_label("Admin key").fill(gateway.admin_key)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/ui/models")
    painted_ms, stood_ms = seen_ms(gateway, "/ui", known, browser)
    rows = [["the first view of all", "–", f"{painted_ms:,.0f}", f"{stood_ms:,.0f}", f"{stood_ms:,.0f}"]]
    for name, path in _PAGES.items():
        served = [served_ms(gateway, path, opener) for _ in range(_TIMES)]
        seen = [seen_ms(gateway, path, known, browser) for _ in range(_TIMES)]
        painted, stood = ([one[n] for one in seen] for n in (0, 1))
        median = statistics.median
        rows.append([name, *(f"{ms:,.0f}" for ms in (median(served), median(painted), median(stood), max(stood)))])
        _tell(", ".join(rows[-1]) + "\n")
    return rows


def _tell(text: str) -> None:
    print(f"\r{text}   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser("python -m bench.pages", description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="cost records of 90 days")
    records, load = parser.parse_args().records, os.getloadavg()[0]
    with company(records) as gateway, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_binary("chromium"), args=ARGUMENTS)
        rows = measured(gateway, browser)
        browser.close()
    head = ["page", "served, ms", "first painted, ms", "stands with its charts, ms", "the slowest, ms"]
    facts = [
        f"- date: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"- machine: {os.cpu_count()} cores, {os.uname().machine}; load average before: {load:.2f}",
        f"- data: {records:,} cost records of {DAYS} days, {AGENTS} agents in {TEAMS} teams, each with accounts",
    ]
    told = f"Medians of {_TIMES}; the browser has nothing in its cache, and runs on the same cores."
    parts = ["# How soon the pages are there", "This page is made by `make bench-pages`.", "\n".join(facts), told]
    report = "\n\n".join([*parts, table(head, rows)]) + "\n"
    print(report)
    if records == 1_000_000:
        _DOCUMENT.write_text(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
