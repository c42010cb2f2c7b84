"""CHANGELOG.md has the form of Keep a Changelog 1.1, and a section for the version of the package."""

import re
from pathlib import Path

from charladder import __version__

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CHANGELOG.md").read_text()
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


def test_the_version_of_the_package_has_the_first_section():
    """A development version, such as 0.2.0.dev0, belongs to a section without a date; a release needs one."""
    release, _, development = __version__.partition(".dev")
    date = "unreleased" if development else r"\d{4}-\d\d-\d\d"
    assert re.match(rf"\[{re.escape(release)}\] - {date}\n", TEXT.split("\n## ")[1])


def test_citation_has_the_version_of_the_package():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
