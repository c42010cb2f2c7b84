"""docs/results.md: corrected p-values are those of its p-values, verdicts follow from the numbers beside them, and what
they were made with is named whole."""

import re
from pathlib import Path

import pytest

from charladder.studies.statistics import SIGNIFICANCE_LEVEL, holm_correction

PAGE = Path(__file__).parents[2] / "docs" / "results.md"
TEXT = PAGE.read_text()


def table(heading: str, number: int = 0) -> list[list[str]]:
    """The rows of a table below a heading, without its head."""
    section = re.split(r"^##+ ", TEXT.split(f"# {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[number].splitlines()[2:]
    return [[cell.strip(" *") for cell in row.strip("|").split("|")] for row in rows]


def number(cell: str) -> float:
    return float(cell.replace("< ", "").split(" (")[0])


def interval(cell: str) -> tuple[float, float]:
    low, high = map(float, cell.split(" to "))
    return low, high


MODERN, SECONDS = table("2. The modern recipe, at equal steps")[1:], table("Withdrawn: the plan `seconds`")[1:]
PAPER, UNION = table("6. The paper's Table 4, in small")[1:], table("Correction over both plans")


@pytest.mark.parametrize(("rows", "p", "corrected"), [(MODERN, 4, 5), (SECONDS, 5, 6), (PAPER, 4, 5)])
def test_corrections_over_one_plan(rows, p, corrected):
    found = holm_correction({row[0]: number(row[p]) for row in rows})
    for row in rows:
        if not row[p].startswith("<"):
            assert number(row[corrected]) == pytest.approx(found[row[0]], rel=0.07), (
                row
            )  # recorded with one or two digits


def test_verdicts_follow_from_corrected_p_values():
    for name, _, difference, _, _, corrected, verdict in MODERN:
        shown = "better" if number(difference) < 0 else "worse"
        assert verdict == (shown if number(corrected) < SIGNIFICANCE_LEVEL else "no difference shown"), name


def test_a_row_whose_interval_contains_the_effect_of_the_paper_is_uninformative():
    for name, _, difference, found, _, corrected, effect, verdict in PAPER:
        low, high = interval(found)
        if number(corrected) < SIGNIFICANCE_LEVEL:
            assert verdict == ("better" if number(difference) < 0 else "worse"), name
            assert low > 0 or high < 0
        elif low <= number(effect) <= high:
            assert verdict == "uninformative", name
        else:
            assert verdict == "no difference shown; excludes the paper's effect", name
    assert sum(row[-1] == "uninformative" for row in PAPER) == 2


def test_the_correction_over_both_plans():
    """Of five tests only a bound is known: each p is 0.009 or more."""
    known = {row[0]: number(row[1]) for row in UNION[:3]}
    known |= {f"steps: {row[0]}": number(row[4]) for row in MODERN if "constant" not in row[0]}
    known |= {f"seconds: {row[0]}": number(row[5]) for row in SECONDS}
    assert len(known) == 12
    found = [holm_correction(known | {f"unknown {n}": p for n in range(5)}) for p in (0.0095, 1.0)]
    for name, _, _, corrected in UNION[:3]:
        assert {round(one[name], 2) for one in found} == {number(corrected)}
    low, high = map(float, UNION[3][3].split(" to "))
    assert all(low <= one["seconds: 2 targets"] <= high for one in found)
    assert min(p for one in found for name, p in one.items() if name not in known) >= low
    assert [name for name in known if found[0][name] < SIGNIFICANCE_LEVEL] == [UNION[0][0]]


def test_checksums_and_commits_are_whole():
    assert re.findall(r"\b[0-9a-f]{64}\b", TEXT)
    plans = table("Text, commits and machines")
    assert all(re.fullmatch(r"`[0-9a-f]{40}`", cell) for row in plans for cell in row[2:] if cell)
    shortened = [
        word for word in re.findall(r"\b[0-9a-f]{7,63}\b", TEXT) if re.search("[a-f]", word) and len(word) != 40
    ]
    assert shortened == []
