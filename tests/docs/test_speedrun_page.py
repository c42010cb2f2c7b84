"""docs/speedrun.md: its table is what its command prints, its commands run with small sizes, and its numbers are those
of the code."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from benchmarks.__main__ import main
from benchmarks.reference import Settings
from benchmarks.speedrun import records, task
from benchmarks.speedrun.command_entry import PREDICT_LIMIT
from benchmarks.speedrun.predictions import MAX_DISTANCE, MAX_SUM_ERROR
from benchmarks.timed_process import CORES
from benchmarks.tuned_settings import write_settings

from benchmarks import reference_sweep
from docs.page_code import DOCS

PAGE = DOCS / "speedrun.md"
TEXT = PAGE.read_text()
ROOT = DOCS.parent
BLOCKS = re.findall(r"^```\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line)[3:] for block in BLOCKS for line in block.splitlines() if line.startswith("python ")]


def run(monkeypatch, words: list[str]) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", *words])
    return main()


def test_table_is_what_the_command_prints(monkeypatch, capsys):
    assert run(monkeypatch, ["speedrun", "--table"]) == 0
    between = TEXT.partition(f"{records.BEGIN}\n")[2].partition(records.END)[0]
    assert between.strip() == capsys.readouterr().out.strip(), (
        "run: python -m benchmarks speedrun --table --page docs/speedrun.md"
    )


def test_committed_rows_are_of_the_task():
    rows = records.read_rows(records.RESULTS)
    assert records.RESULTS.is_file()
    for row in rows:
        assert row["text_sha256"] == task.TEXT_SHA256 and float(row["seconds"]) in task.SECONDS
        assert row["bits_per_character"] and row["commit"] and row["characters"] == "253641"
        assert float(row["process_seconds"]) <= float(row["seconds"])


def test_commands_are_those_of_the_page():
    assert [words[:2] for words in COMMANDS] == [
        ["speedrun", "reference"], ["speedrun", "ladder"], ["speedrun", "sprint"], ["speedrun", "--table"],
        ["reference_sweep", "text8-prefix.xz"], ["reference_sweep", "text8-prefix.xz"], ["speedrun", "reference-tuned"],
        ["speedrun", "command"],
    ]  # fmt: skip


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:50])
def test_commands_with_small_sizes(words, tmp_path, text_file, monkeypatch, capsys):
    """Entries that train a network are only found here; tests/benchmarks/test_speedrun.py trains them."""
    monkeypatch.chdir(tmp_path)
    words = [str(text_file) if word in ("text8", "text8-prefix.xz") else word for word in words]
    words = [word.replace("python benchmarks", f"{sys.executable} {ROOT}/benchmarks") for word in words]
    if words[0] == "reference_sweep":
        words += ["--valid", "1000", "--test", "500", "--quick", "--dry-run"]
        assert run(monkeypatch, words) == 0 and "3 trials" in capsys.readouterr().err
    elif "--table" in words:
        Path("docs").mkdir()
        Path("docs/speedrun.md").write_text(TEXT)
        assert run(monkeypatch, words) == 0 and Path("docs/speedrun.md").read_text() == TEXT
    elif words[1] == "command":
        assert run(monkeypatch, [*words, "--quick", "--json"]) == 0
        assert "pairs, seed 0: " in capsys.readouterr().err
    else:
        started = []
        monkeypatch.setattr("benchmarks.speedrun.command.verify", lambda entry, *_: started.append(entry) or 1 / 0)
        tuned = ["--settings", "tuned.toml"] if words[1] == "reference-tuned" else []
        write_settings(Path("tuned.toml"), Settings(), {})
        with pytest.raises(ZeroDivisionError):
            run(monkeypatch, [*words, "--quick", *tuned])
        assert started[0].name == words[1]


def test_numbers_are_those_of_the_code():
    numbers = task.CHARACTERS, task.TRAIN, task.VALID, task.CHARACTERS - task.TRAIN - task.VALID
    assert numbers == (4_503_641, 4_000_000, 250_000, 253_641)
    assert all(f"{number:,}" in TEXT for number in numbers) and f"head -c {task.CHARACTERS} text8" in TEXT
    assert task.TEXT_SHA256 in TEXT and task.SECONDS == (300, 60) and CORES == 2 and records.SEEDS == 5
    assert (PREDICT_LIMIT, MAX_SUM_ERROR, MAX_DISTANCE) == (600, 0.001, 0.0001)
    assert f"{len(reference_sweep.grid())} settings" in TEXT
    rounds = reference_sweep.parse_rounds(reference_sweep.ROUNDS.split(), 135)
    assert "35 trials, 65 minutes of training" in TEXT
    assert "35 trials, 24 of 75 s, 8 of 150 s, 3 of 300 s: 65.0 minutes" in (
        reference_sweep.describe_budget(rounds, 300, 100_000)
    )
    example = (ROOT / "benchmarks/speedrun/example_entry.py").read_text()
    assert f"in {example.count(chr(10))} lines" in TEXT


def test_results_can_be_committed():
    """Lock files of the folder of results are ignored, and its CSV files are not."""
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "benchmarks/results/.*" in ignored and "benchmarks/results/" not in ignored
