"""README.md: its Python code runs as printed, and its links lead somewhere. Its commands, and those of
docs/commands.md, exist and need no file that a new clone does not have."""

import re
import runpy
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from charladder.cli.main import main
from charladder.text.datasets import DOWNLOADS, PYTHON

PAGE = Path(__file__).parents[2] / "README.md"
PICTURES = PAGE.parent / "docs" / "pictures"
TEXT = PAGE.read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(TEXT)
ALL_BLOCKS = BLOCKS + BLOCK.findall((PAGE.parent / "docs" / "commands.md").read_text())
LINES = [line for language, block in ALL_BLOCKS if not language for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in LINES if line.startswith("charladder ")]


def test_the_python_code_runs_as_printed():
    """Block after block in one namespace, which begins empty."""
    torch.manual_seed(0)
    first, second = (block for language, block in BLOCKS if language == "python")
    names: dict = {}
    exec(compile(first, "README.md", "exec"), names)
    assert set(names["report"].terms) == {"main"}  # the auxiliary loss has faded to 0 at half of training
    assert names["report"].terms["main"].value < 2  # less than log(10), where it begins
    exec(compile(second, "README.md", "exec"), names)
    terms = {name: (term.weight, term.count) for name, term in names["report"].terms.items()}
    assert terms == {"main": (1.0, 64), "layer1": (0.3, 64)}
    assert names["model"][0].weight.grad is not None


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_and_their_options_are_known(command, capsys):
    verb, *words = command
    assert main([verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--") and "." not in word):
        assert option in shown


@pytest.mark.parametrize("command", [one for one in COMMANDS if one[0] == "train"], ids=" ".join)
def test_texts_to_train_on_are_corpora_by_name(command):
    """A new clone has no other text. Every option of these commands but --extend takes a value."""
    words = [word for word in command if word != "--extend"]
    data = [word for before, word in pairwise(words) if not before.startswith("--") and not word.startswith("--")]
    assert set(data) <= {*DOWNLOADS, PYTHON}


@pytest.mark.parametrize("command", [one for one in COMMANDS if one[0] in ("inspect", "explain")], ids=" ".join)
def test_commands_that_need_no_run(command, capsys):
    assert main(command) == 0
    assert capsys.readouterr().out


def test_the_figure_is_drawn_from_the_tables_of_results(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["finding.py", str(tmp_path)])
    names = runpy.run_path(str(PICTURES / "finding.py"), run_name="__main__")
    assert (tmp_path / "finding.svg").read_text().rstrip().endswith("</svg>")
    rows = names["read_rows"]((PICTURES.parent / "results.md").read_text(), "## 4. Many passes over little text")
    assert [row[1:] for row in rows] == [(-0.0664, -0.0712, -0.0617, True), (-0.1006, -0.1093, -0.0918, True)]
    assert "0.066 bits per character (95% interval 0.062 to 0.071" in TEXT


def test_links_lead_somewhere():
    links = [target for target in re.findall(r"\]\(([^)]+)\)", TEXT) if not target.startswith("https://")]
    assert links and [target for target in links if not (PAGE.parent / target).exists()] == []
