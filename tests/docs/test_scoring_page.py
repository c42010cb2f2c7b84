"""The commands and programs of docs/scoring.md run, one after the other, on small texts and networks."""

import json
import re
import shlex
import shutil
from pathlib import Path

from charladder.cli.commands import load_command
from charladder.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text()
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "2", "--score", "none"]


def test_commands_and_programs_run_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = PAGE[PAGE.index("## Odd lines of a log") :]
    for name in ("ordinary.log", "today.log", "english.txt", "german.txt", "lines.txt"):
        Path(name).write_text(f"a line of {name}\n" * 60)
    with Path("pages.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in ("short", "a page that is long enough"))
    assert main(["train", "ordinary.log", *TINY, "--run", "runs/ladder-1"]) == 0
    counts = {"": 0, "python": 0}
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        counts[language] += 1
        if language:
            exec(compile(block, "scoring.md", "exec"), {})
            continue
        for line in block.splitlines():
            _, verb, *words = shlex.split(line, comments=True)
            if verb == "train":  # the runs are copies of one
                run = load_command("train").make_parser().parse(words).run
                shutil.copytree("runs/ladder-1", run)
            else:
                assert main([verb, *words]) == 0, capsys.readouterr().err
    assert counts == {"": 5, "python": 4}
    shown = capsys.readouterr().out
    assert "patches, of" in shown and re.search(r"^(english|german) \d+ a line of lines.txt$", shown, re.MULTILINE)
    assert len(Path("today.jsonl").read_text().splitlines()) == 60
