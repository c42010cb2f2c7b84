"""docs/auxiliary.md: its code runs and answers what the page says, its tables are those of the presets, its links lead
somewhere, and its pictures can be drawn."""

import re
import runpy
from typing import Any

import pytest

from charladder.auxiliary.presets import INTERMEDIATE, TARGETS
from charladder.auxiliary.weights import TermPlace, make_weight_function
from docs.page_code import DOCS, assert_all_python_is_run, assert_answers

PAGE = DOCS / "auxiliary.md"
PICTURES = PAGE.parent / "pictures"
NAMES = {"three_losses.svg", "schedule.svg", "gradients.svg"}
LAYERS, OFFSETS = 4, 3


def test_code_on_the_page_answers_what_the_page_says():
    assert_answers(PAGE)


def test_all_python_on_the_page_is_run():
    assert_all_python_is_run(PAGE, at_least=10)


def table(first: str) -> dict[str, list[str]]:
    """The rows of the table whose first column is headed `first`, by the name in it."""
    lines = iter(PAGE.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            next(lines)
            break
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        rows[name.strip("`")] = cells
    return rows


def numbers(preset: Any, places: list[TermPlace], progress: float) -> str:
    weights = [make_weight_function("page", preset, place)(progress, 0) for place in places]
    return ", ".join(f"{round(weight, 2):g}" for weight in weights)


@pytest.mark.parametrize(
    ("first", "presets", "places", "moments"),
    [
        ("Layers", INTERMEDIATE, [TermPlace(n, LAYERS, main=n == LAYERS) for n in range(1, LAYERS + 1)], (0.0, 0.2)),
        ("Targets", TARGETS, [TermPlace(None, None, k, OFFSETS) for k in range(1, OFFSETS + 1)], (0.0, 0.7)),
    ],
)
def test_tables_of_presets(first, presets, places, moments):
    rows = table(first)
    assert list(rows) == list(presets)
    for name, (_, *values, paper) in rows.items():
        assert values == [numbers(presets[name], places, moment) for moment in moments], name
        source = getattr(presets[name], "paper", presets[name].__doc__)
        named = paper.lower() in " ".join(source.split()).lower()
        assert paper == "the same" or named, f"{name}: its docstring does not name {paper!r}"


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", PAGE.read_text())
    local = [target for target in targets if not target.startswith("https://")]
    assert local
    assert [target for target in local if not (PAGE.parent / target).exists()] == []


def test_pictures_can_be_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["draw.py", str(tmp_path)])
    runpy.run_path(str(PICTURES / "draw.py"), run_name="__main__")
    assert {path.name for path in tmp_path.iterdir()} == NAMES
    for name in NAMES:
        assert (tmp_path / name).read_text().rstrip().endswith("</svg>")
        assert "<dc:date>" not in (tmp_path / name).read_text()
        assert (PICTURES / name).is_file()
        assert f"](pictures/{name})" in PAGE.read_text()
