"""A trained run, its server, and a page that must report no errors and request nothing from other hosts."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from browser import chromium
from helpers import PROSE

SKIP_FIRST_VISIT = """if (location.protocol.startsWith("http") && sessionStorage.getItem("text") === null)
    sessionStorage.setItem("text", "")"""


@pytest.fixture(scope="session")
def chromium_installed() -> None:
    if missing := chromium.missing_requirement():
        refuse = pytest.fail if os.environ.get("CHARLADDER_BROWSER") == "required" else pytest.skip
        refuse(missing)
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)  # a busy machine may take more than the usual five seconds


@pytest.fixture(scope="session")
def trained_run(chromium_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chromium.train(tmp_path_factory.mktemp("browser"), PROSE * 40)


@pytest.fixture(scope="session")
def server_url(trained_run: Path) -> Iterator[str]:
    with chromium.running_server(trained_run) as url:
        yield url


# Of module scope: while Playwright runs, no other event loop can run in this thread.
@pytest.fixture(scope="module")
def browser(chromium_installed: None) -> Iterator[Any]:
    with chromium.running_browser() as browser:
        yield browser


@dataclass
class BrowserLog:
    """Errors and requests of the browser. `expected`: a pattern of the errors that a test provokes."""

    expected: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self, allowed_urls: list[str]) -> None:
        unexpected = [error for error in self.errors if not (self.expected and re.search(self.expected, error))]
        assert unexpected == []
        assert [url for url in self.requests if not url.startswith(tuple(allowed_urls))] == []


@pytest.fixture
def browser_log() -> BrowserLog:
    return BrowserLog()


@pytest.fixture
def open_page(browser: Any, server_url: str, browser_log: BrowserLog) -> Iterator[Any]:
    """Opens the explorer: `open_page(color_scheme="dark")`, with the options of a browser context. The text is empty
    unless `first` is true, as on a first visit."""
    contexts, allowed_urls = [], [server_url]

    def open_page(url: str = server_url, first: bool = False, **options: Any) -> Any:
        allowed_urls.append(url)
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        if not first:
            context.add_init_script(SKIP_FIRST_VISIT)
        contexts.append(context)
        context.on("request", lambda request: browser_log.requests.append(request.url))
        context.on("weberror", lambda problem: browser_log.errors.append(str(problem.error)))
        context.on("console", lambda message: message.type == "error" and browser_log.errors.append(message.text))
        context.on("dialog", lambda dialog: (browser_log.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page = context.new_page()
        page.goto(url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    browser_log.check(allowed_urls)


@pytest.fixture
def page(open_page: Any) -> Any:
    return open_page()
