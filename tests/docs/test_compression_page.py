"""The commands and the program of docs/compression.md run, one after the other, on small texts and networks."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from charladder.cli.main import main
from charladder.compression import online
from helpers import PROSE

PAGE = (Path(__file__).parents[2] / "docs" / "compression.md").read_text()
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--score", "none"]


def test_commands_and_program_run_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    pytest.importorskip("constriction")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(online, "_MODEL", replace(online._MODEL, layers=1, width=16, feed_forward=16, ngram_rows=64))
    Path("text.txt").write_text(PROSE * 10)
    Path("book.txt").write_text(PROSE)
    Path("notes.txt").write_text(PROSE[:40])
    commands, program = re.findall(r"^```(?:python)?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in commands.splitlines():
        _, verb, *words = shlex.split(line, comments=True)
        if verb == "train":
            words = ["text.txt", *TINY, "--run", "runs/ladder-1"]
        assert main([verb, *words]) == 0, capsys.readouterr().err
    exec(compile(program, "compression.md", "exec"), {})
    for one, other in (("book.txt", "back.txt"), ("notes.txt", "again.txt"), ("book.txt", "copy.txt")):
        assert Path(one).read_bytes() == Path(other).read_bytes()
    assert f"network {len(PROSE)} " in capsys.readouterr().out
