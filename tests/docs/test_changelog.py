"""CHANGELOG.md has the form of Keep a Changelog 1.1."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
SECTIONS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]


def test_every_version_has_known_sections_once_and_in_order():
    versions = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert [re.match(r"\[([\d.]+)\]", version).group(1) for version in versions][:2] == ["0.2.0", "0.1.0"]
    for version in versions:
        sections = re.findall(r"^### (.*)$", version, re.MULTILINE)
        assert sections == [section for section in SECTIONS if section in sections], version.splitlines()[0]


def test_no_bullet_is_listed_twice():
    """A union merge can bring back lines that were condensed."""
    bullets = re.findall(r"^- .*$", TEXT, re.MULTILINE)
    assert sorted(bullets) == sorted(set(bullets))
