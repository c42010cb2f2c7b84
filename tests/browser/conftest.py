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

VISITED = """if (location.protocol.startsWith("http") && sessionStorage.getItem("text") === null)
    sessionStorage.setItem("text", "")"""


@pytest.fixture(scope="session")
def installed() -> None:
    if missing := chromium.missing():
        refuse = pytest.fail if os.environ.get("CHARLADDER_BROWSER") == "required" else pytest.skip
        refuse(missing)
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)  # a busy machine may take more than the usual five seconds


@pytest.fixture(scope="session")
def run(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chromium.train(tmp_path_factory.mktemp("browser"), PROSE * 40)


@pytest.fixture(scope="session")
def served(run: Path) -> Iterator[str]:
    with chromium.serving(run) as url:
        yield url


# Of module scope: while Playwright runs, no other event loop can run in this thread.
@pytest.fixture(scope="module")
def browser(installed: None) -> Iterator[Any]:
    with chromium.browsing() as browser:
        yield browser


@dataclass
class Watch:
    """Errors and requests of the browser. `expected`: a pattern of the errors that a test provokes."""

    expected: str = ""
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def check(self, homes: list[str]) -> None:
        unexpected = [error for error in self.errors if not (self.expected and re.search(self.expected, error))]
        assert unexpected == []
        assert [url for url in self.requests if not url.startswith(tuple(homes))] == []


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def look(browser: Any, served: str, watch: Watch) -> Iterator[Any]:
    """Opens the explorer: `look(color_scheme="dark")`, with the options of a browser context. The text is empty
    unless `first` is true, as on a first visit."""
    contexts, homes = [], [served]

    def look(home: str = served, first: bool = False, **options: Any) -> Any:
        homes.append(home)
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        if not first:
            context.add_init_script(VISITED)
        contexts.append(context)
        context.on("request", lambda request: watch.requests.append(request.url))
        context.on("weberror", lambda problem: watch.errors.append(str(problem.error)))
        context.on("console", lambda message: message.type == "error" and watch.errors.append(message.text))
        context.on("dialog", lambda dialog: (watch.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page = context.new_page()
        page.goto(home)
        return page

    yield look
    for context in contexts:
        context.close()
    watch.check(homes)


@pytest.fixture
def page(look: Any) -> Any:
    return look()
