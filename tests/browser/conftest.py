"""A real Chromium, and pages in it whose complaints fail the test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.gateway import RunningGateway
from tests.support.needs import require_binary

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


class Picture(Protocol):
    """Keeps what a page shows under a name. whole: also what is below the window."""

    def __call__(self, page: Page, name: str, *, whole: bool = False) -> None: ...


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = require_binary("chromium")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield opened
        opened.close()


@contextmanager
def logged_in(gateway: RunningGateway, browser: Browser) -> Iterator[Page]:
    """A page of somebody who has shown the admin key. Anything that the browser complains of fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened, complaints = context.new_page(), list[str]()
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    opened.goto(gateway.url)
    opened.get_by_label("Admin key").fill(gateway.admin_key)
    opened.get_by_role("button", name="Log in").click()
    expect(opened.get_by_role("heading", name="Overview")).to_be_visible()
    yield opened
    context.close()
    assert [c for c in complaints if "(Precondition Failed)" not in c] == [], "but for a form that was too late"


@pytest.fixture
def picture() -> Picture:
    """Keeps what a page shows for the docs, light and dark, if `SPENDGATE_PICTURES` names a folder."""
    folder = os.environ.get("SPENDGATE_PICTURES")

    def keep(page: Page, name: str, *, whole: bool = False) -> None:
        if not folder:
            return
        for scheme, suffix in (("light", ""), ("dark", "-dark")):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.screenshot(path=Path(folder) / f"{name}{suffix}.png", full_page=whole, animations="disabled")
        page.emulate_media(color_scheme="light")

    return keep
