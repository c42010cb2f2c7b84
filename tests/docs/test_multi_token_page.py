"""docs/multi-token.md: its code runs and answers what the page says, and its presets exist."""

import doctest
import re
from pathlib import Path

from charladder import auxiliary as aux

PAGE = Path(__file__).parents[2] / "docs" / "multi-token.md"


def test_code_on_the_page_answers_what_the_page_says():
    # Fences become empty lines: an empty line ends an answer, and line numbers stay.
    text = re.sub(r"^```.*$", "", PAGE.read_text(), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    assert runner.run(examples, out=said.append).failed == 0, "".join(said)


def test_presets_in_the_table_exist():
    names = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert len(names) == 5
    assert all(name in aux.presets.__all__ for name in names)
