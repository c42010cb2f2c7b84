"""The browser and the server of these tests."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# Disables everything that is not needed for the page.
BROWSER_ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SMALL = {"steps": 60, "layers": 3, "width": 32, "context": 32, "batch": 4, "precision": "float32"}
ENVIRONMENT = {"OMP_NUM_THREADS": "1"} | os.environ  # more threads do not make so small a network faster
MAX_CHARACTERS = 1_000_000  # more than are written before a test stops the text
URL_PATTERN = re.compile(r"https?://[\w.:\[\]]+/")


def executable() -> str | None:
    """The path of the browser: CHROMIUM, or the first that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


def missing_requirement() -> str | None:
    """An error message if something that these tests need is not installed."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is missing: pip install playwright (it is in charladder[dev])"
    return None if executable() else "there is no Chromium: apt-get install chromium, or name one in CHROMIUM"


@contextmanager
def running_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=BROWSER_ARGUMENTS)
        yield browser
        browser.close()


def train(folder: Path, text: str) -> Path:
    """A run trained on `text` for a few seconds."""
    book, run = folder / "book.txt", folder / "small"
    book.write_text(text)
    settings = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "charladder", "train", book, *settings, "--run", run]
    subprocess.run(command, check=True, env=ENVIRONMENT)
    return run


@contextmanager
def running_server(run: Path, token: str = "") -> Iterator[str]:
    """`charladder serve RUN` on a free port; gives its address, which ends in a slash."""
    command = [
        sys.executable,
        "-m",
        "charladder",
        "serve",
        str(run),
        "--port",
        "0",
        "--max-tokens",
        str(MAX_CHARACTERS),
    ]
    environment = ENVIRONMENT | {"CHARLADDER_TOKEN": token}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        try:
            line = process.stdout.readline()  # empty if the process ends before it listens
            match = URL_PATTERN.search(line)
            assert match, f"{' '.join(command)} printed no address: {line!r}"
            yield match[0]
        finally:
            process.terminate()


def fetch_json(url: str, body: dict[str, Any] | None = None) -> Any:
    """The server's JSON response; a POST if there is a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
