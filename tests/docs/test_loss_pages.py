"""Pages on kinds of losses and on frameworks: their code runs and answers what they say, and their presets exist."""

import re

import pytest

from charladder import auxiliary as aux
from docs.page_code import DOCS, assert_all_python_is_run, assert_answers

PAGES = {"kinds-of-losses.md": 7, "multi-token.md": 5, "representation-losses.md": 5}  # rows in the table of presets


@pytest.mark.parametrize("page", [*PAGES, "frameworks.md"])
def test_code_on_the_page_answers_what_the_page_says(page):
    assert_answers(DOCS / page)


def test_all_python_on_the_page_of_frameworks_is_run():
    assert_all_python_is_run(DOCS / "frameworks.md", at_least=4)


@pytest.mark.parametrize("page", PAGES)
def test_presets_in_the_table_exist(page):
    names = re.findall(r"^\| `([\w.]+)` \|", (DOCS / page).read_text(), flags=re.MULTILINE)
    assert len(names) == PAGES[page]
    if page == "kinds-of-losses.md":
        assert names.pop() == "aux.rules.GradNorm" and aux.rules.GradNorm.__doc__
    assert all(name in aux.presets.__all__ for name in names)
