"""The option --slow, and fixtures for all tests: a cache folder for each test, a small text."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from caches import COMPILED, new_cache
from helpers import PROSE

# No deadlines, because the machine may be busy. If EXPLORE is set, every run generates other examples.
settings.register_profile("noisy", deadline=None, derandomize="EXPLORE" not in os.environ)
settings.load_profile("noisy")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the slow tests too")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault(COMPILED, str(config.cache.mkdir("compiled")))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def separate_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLADDER_CACHE", new_cache(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def prose() -> bytes:
    return (PROSE * 20).encode()


@pytest.fixture
def text_file(tmp_path: Path, prose: bytes) -> Path:
    path = tmp_path / "prose.txt"
    path.write_bytes(prose)
    return path
