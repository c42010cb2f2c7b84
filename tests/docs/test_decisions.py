"""docs/decisions: every record has its parts and is in the index, and figures are those of the archived record."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
RECORDS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
SECTIONS = ["Question", "Options", "Measurement", "Decision"]


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d(?:[\d,.]*\d)?", text))


def field(text: str, name: str) -> str:
    return re.findall(rf"^- {name}: (.*)$", text, re.MULTILINE)[0]


def test_index_lists_every_record_once():
    lines = re.findall(
        r"^- \[(\d+)\]\(([^)]*)\) (.*) \((\d{4}-\d\d-\d\d)", (DOCS / "decisions/README.md").read_text(), re.M
    )
    assert sorted(file for _, file, _, _ in lines) == [record.name for record in RECORDS]
    for number, file, title, date in lines:
        text = (DOCS / "decisions" / file).read_text()
        assert file.startswith(number)
        assert text.startswith(f"# {number}. {title}\n")
        assert field(text, "Date") == date


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name[:4])
def test_record_has_its_parts(record):
    text = record.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    for ours, theirs in (("Supersedes", "Superseded by"), ("Superseded by", "Supersedes")):
        for other in re.findall(r"\((\d[^)]*)\)", field(text, ours)):
            assert record.name in field((record.parent / other).read_text(), theirs)


def test_numbers_follow_the_date():
    assert [int(record.name[:4]) for record in RECORDS] == list(range(1, len(RECORDS) + 1))
    dates = [field(record.read_text(), "Date") for record in RECORDS]
    assert dates == sorted(dates)


@pytest.mark.parametrize(
    "record", [one for one in RECORDS if "\n- Record: " in one.read_text()], ids=lambda one: one.name[:4]
)
def test_figures_are_copied_from_the_archive(record):
    text = record.read_text()
    pages = re.findall(r"\((\.\./archive/[^)]*)\)", text)
    sources = [*((record.parent / page).read_text() for page in pages), (DOCS / "archive/README.md").read_text()]
    if "](../results.md)" in text:
        sources.append((DOCS / "results.md").read_text())
    measured = re.search(r"^## Measurement\n(.*?)^## ", text, re.MULTILINE | re.DOTALL).group(1)
    measured = re.sub(r"`[^`]*`|\]\([^)]*\)|\b(?=\w*\d)[0-9a-f]{7}\b", "", measured)
    measured = re.sub(r"\[\d{4}\b", "", measured)  # the number of another record
    assert figures(measured) <= figures(" ".join(sources))
