"""docs/evidence.md: its plan is valid, its commands and options exist, and its Python answers what the page says."""

import json
import re
from pathlib import Path

from charladder.cli.main import main
from docs.page_code import DOCS, assert_answers

PAGE = (DOCS / "evidence.md").read_text()


def test_plan_of_the_page_is_valid(tmp_path, monkeypatch, capsys, text_file):
    monkeypatch.chdir(tmp_path)
    plan, sweep = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    Path("mine.toml").write_text(plan)
    assert main(["study", "mine.toml", str(text_file), "--dry-run", "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["plan"] == "mine" and len(output["runs"]) == 2 * 3 * 5
    assert {arm["objective.targets"] for arm in output["arms"].values()} == {1, 2, 4}
    Path("mine.toml").write_text(plan + sweep)
    assert main(["study", "mine.toml", str(text_file), "--dry-run", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sweep"]) == 2 * 3 * 3 * 2


def test_options_of_the_page_exist(capsys):
    for verb, options in re.findall(r"^charladder (\w+)(.*?)(?:#.*)?$", PAGE, re.MULTILINE):
        assert main([verb, "--help"]) == 0
        shown = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", options):
            assert option in shown, f"{verb} {option}"


def test_python_on_the_page_answers_what_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_answers(DOCS / "evidence.md", options=0)
    assert Path("study.html").is_file()
