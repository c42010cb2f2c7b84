"""docs/frameworks.md: its code runs and answers what the page says."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"


def test_code_on_the_page_answers_what_the_page_says():
    # Fences become empty lines: an empty line ends an answer, and line numbers stay.
    text = re.sub(r"^```.*$", "", PAGE.read_text(), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    assert runner.run(examples, out=said.append).failed == 0, "".join(said)


def test_all_python_on_the_page_is_run():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > 4
    for block in blocks:
        assert all(re.match(r">>> |\.\.\.( |$)", part.splitlines()[0]) for part in block.strip().split("\n\n")), block
