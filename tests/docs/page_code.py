"""The Python code of a page of the documentation, which is run as doctests."""

import doctest
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def assert_answers(page: Path, options: int = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE) -> None:
    """The code answers what the page says, from top to bottom. options: of doctest; 0 compares to the letter."""
    # Fences become empty lines: an empty line ends an answer, and line numbers stay.
    text = re.sub(r"^```.*$", "", page.read_text(), flags=re.MULTILINE)
    examples = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    assert examples.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=options, verbose=False)
    assert runner.run(examples, out=said.append).failed == 0, "".join(said)


def assert_all_python_is_run(page: Path, at_least: int) -> None:
    """Every block of Python consists of doctests; there are more than `at_least`."""
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > at_least
    for block in blocks:
        assert all(re.match(r">>> |\.\.\.( |$)", part.splitlines()[0]) for part in block.strip().split("\n\n")), block
