"""docs/recipe.md is what its command prints."""

from pathlib import Path

from charladder.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "recipe.md"


def test_the_page_is_up_to_date(capsys):
    assert main(["recipe", "--markdown"]) == 0
    assert capsys.readouterr().out == PAGE.read_text(), "run: charladder recipe --markdown > docs/recipe.md"
