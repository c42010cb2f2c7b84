"""The program in docs/generation.md runs."""

import re
from pathlib import Path

from charladder.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "generation.md").read_text()


def test_the_library_as_the_page_uses_it(tmp_path, text_file, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "4", "--steps", "3"]
    assert main(["train", str(text_file), *tiny, "--run", "runs/ladder-1"]) == 0
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    capsys.readouterr()
    exec(program, {})
    assert "length" in capsys.readouterr().out
