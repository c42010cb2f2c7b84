"""Help pages, the reference of recipe fields, and completion scripts."""

import argparse
import json
import shlex
import shutil
import subprocess
import sys

import pytest

from charladder.cli.commands import COMMANDS, GROUPS, load_command
from charladder.cli.main import main
from charladder.cli.recipe_options import FIELDS_SET_BY_RUN
from charladder.recipe import field_types

MAX_LINES, MAX_COLUMNS = 40, 100


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def help_page(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_page_fits_a_screen(command, capsys):
    lines = help_page(command, capsys).splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= MAX_COLUMNS
    assert lines[0].startswith(f"usage: charladder {command} ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_page_lists_every_visible_option(command, capsys):
    page = help_page(command, capsys)
    for action in load_command(command).make_parser()._actions:
        if action.help != argparse.SUPPRESS:
            (line,) = (line for line in page.splitlines() if line.startswith(f"  {displayed_name(action)} "))
            assert line.split(maxsplit=1)[1:]
    hidden = [action for action in load_command(command).make_parser()._actions if action.help == argparse.SUPPRESS]
    fields = {action.dest for action in hidden if action.option_strings} - {"help"}
    assert fields <= set(field_types())
    assert not fields or "every other field: --SECTION.FIELD VALUE" in page


def test_train_says_that_from_begins_at_the_full_learning_rate(capsys):
    (line,) = (line for line in help_page("train", capsys).splitlines() if line.startswith("  --from "))
    assert "full learning rate" in line


def displayed_name(action: argparse.Action) -> str:
    return ", ".join(action.option_strings) or str(action.metavar)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_parse(command):
    parser = load_command(command).make_parser()
    assert len(parser.examples) == 2
    for example in parser.examples:
        program, name, *arguments = shlex.split(example.split(" > ")[0])
        assert (program, name) == ("charladder", command)
        load_command(command).make_parser().parse(arguments)


@pytest.mark.parametrize("columns", ["30", "60"])
def test_help_page_has_the_same_words_on_a_narrow_terminal(columns, capsys, monkeypatch):
    wide = help_page("train", capsys)
    monkeypatch.setenv("COLUMNS", columns)
    assert help_page("train", capsys).split() == wide.split()


def test_main_help_lists_all_commands(capsys):
    assert main([]) == 0
    page = capsys.readouterr().out
    assert max(map(len, page.splitlines())) <= MAX_COLUMNS and len(page.splitlines()) <= MAX_LINES
    for title, commands in GROUPS.items():
        assert f"\n{title}:\n" in page
        assert all(f"\n  {name:12}{about}\n" in page for name, about in commands.items())


def test_main_help_does_not_import_torch():
    arguments = [sys.executable, "-X", "importtime", "-m", "charladder", "--help"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    assert "charladder.cli.main" in done.stderr and "torch" not in done.stderr
    assert "\x1b" not in done.stdout


def test_recipe_lists_every_field_with_its_default(capsys):
    assert main(["recipe", "t12", "--json"]) == 0
    reference = json.loads(capsys.readouterr().out)
    fields = {entry["field"]: entry for entry in reference["fields"]}
    assert reference["recipe"] == "t12"
    assert fields.keys() == field_types().keys() - FIELDS_SET_BY_RUN | {"text.data"}
    assert all(entry["help"] and entry["type"] for entry in fields.values())
    assert fields["model.layers"]["default"] == 12 and fields["model.layers"]["type"] == "INT"
    assert fields["training.optimizer"]["choices"] == ["muon", "adamw", "momentum"]
    assert main(["recipe", "t12"]) == 0
    out = capsys.readouterr().out
    assert all(name.split(".")[1] in out for name in fields)


def test_unknown_recipe(capsys):
    assert main(["recipe", "t46"]) == 2
    assert "there is no recipe called 't46'; did you mean t64?" in capsys.readouterr().err


def completions(script: str, *words: str) -> list[str]:
    """The completions that bash offers for the last of the words."""
    quoted = " ".join(map(shlex.quote, words))
    command = f'COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _charladder; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{command}"], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_options_and_choices(capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert completions(script, "charladder", "ev") == ["evaluate"]
    assert completions(script, "charladder", "evaluate", "run", "--by") == [
        "--by-context",
        "--by-layer",
        "--by-position",
    ]
    assert completions(script, "charladder", "evaluate", "--split", "") == ["valid", "test"]
    assert completions(script, "charladder", "train", "--training.opt") == ["--training.optimizer"]
    assert completions(script, "charladder", "train", "--training.optimizer", "a") == ["adamw"]
    assert completions(script, "charladder", "ablate", "--dr") == ["--dry-run"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_has_every_command_and_valid_syntax(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(command in script for command in COMMANDS)
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, timeout=60)
