"""The plan on docs/evidence.md can be carried out, and the commands there are those there are."""

import json
import re
from pathlib import Path

from charladder.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "evidence.md").read_text()


def test_the_plan_on_the_page_is_one(tmp_path, monkeypatch, capsys, text_file):
    monkeypatch.chdir(tmp_path)
    (found,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    Path("mine.toml").write_text(found)
    assert main(["study", "mine.toml", str(text_file), "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["plan"] == "mine" and len(said["runs"]) == 2 * 3 * 5
    assert {arm["objective.targets"] for arm in said["arms"].values()} == {1, 2, 4}


def test_options_on_the_page_are_known(capsys):
    for verb, options in re.findall(r"^charladder (\w+)(.*?)(?:#.*)?$", PAGE, re.MULTILINE):
        assert main([verb, "--help"]) == 0
        shown = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", options):
            assert option in shown, f"{verb} {option}"
