"""The git revision in environment.json, and whether the source is that of the revision."""

import shutil
import subprocess

import pytest

from charladder import environment
from charladder.recipe import load_recipe_fields, resolve

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def describe(folder, monkeypatch):
    """The two entries where the package is in `folder`/package."""
    monkeypatch.setattr(environment, "__file__", str(folder / "package" / "environment.py"))
    described = environment.describe_environment(resolve(load_recipe_fields("ladder")), None, {})
    return described["git"], described["git_clean"]


def test_revision_and_changes_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    package = tmp_path / "package"
    package.mkdir()
    assert describe(tmp_path, monkeypatch) == (None, None)

    def git(*arguments):
        about = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *about, *arguments], check=True, capture_output=True, text=True
        ).stdout

    git("init")
    assert describe(tmp_path, monkeypatch) == (None, True), "no commit yet"
    (package / "environment.py").write_text("one")
    git("add", ".")
    git("commit", "-m", "one")
    revision = git("rev-parse", "HEAD").strip()
    assert describe(tmp_path, monkeypatch) == (revision, True)
    (tmp_path / "notes.txt").write_text("not of the package")
    assert describe(tmp_path, monkeypatch) == (revision, True)
    (package / "environment.py").write_text("two")
    assert describe(tmp_path, monkeypatch) == (revision, False)
