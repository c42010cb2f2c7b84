"""The command that verifies an entry of the speedrun: which seeds it trains, what it records, and what it refuses."""

import csv
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.__main__ import main as command
from benchmarks.reference import Settings
from benchmarks.speedrun import command as speedrun
from benchmarks.speedrun import records, task
from benchmarks.speedrun.entries import NAMES, EntryScore, ReferenceEntry, make_entry
from benchmarks.speedrun.task import Task, open_task
from benchmarks.timed_process import Finished, run_timed
from benchmarks.tuned_settings import write_settings

from charladder.errors import UserError


def run(monkeypatch, *words) -> int:
    monkeypatch.setattr("sys.argv", ["benchmarks", "speedrun", *map(str, words)])
    return command()


def wait_until(is_true) -> None:
    give_up = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def has_ended(process: int) -> bool:
    """Whether a process is not there any more, or was not waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().split(")")[1].split()[0] == "Z"
    except OSError:
        return True


@dataclass
class Invented:
    """An entry that trains nothing. trained: the seeds and seconds that it was started with."""

    trained: list[tuple[int, float]]
    program: str = "pass"
    stop_at: int | None = None
    name: str = "ladder"
    settings: str = '{"model.layers": 4}'
    source: str = ""
    has_reserve: bool = True

    def train_command(self, text: Path, seconds: float, seed: int, folder: Path) -> list[str]:
        assert text.read_bytes() and folder.is_dir()
        self.trained.append((seed, seconds))
        return [sys.executable, "-S", "-c", self.program]

    def score(self, task: Task, folder: Path) -> EntryScore:
        seed = self.trained[-1][0]
        if seed == self.stop_at:
            raise KeyboardInterrupt
        return EntryScore(2.0 + seed / 10, 128)


@pytest.fixture
def entry(monkeypatch, text_file) -> Invented:
    """An invented entry in place of all, on a small text that is the task's."""
    invented = Invented([])
    monkeypatch.setattr(speedrun, "make_entry", lambda *_: invented)
    monkeypatch.setattr(speedrun, "describe_source", lambda: SOURCE.copy())
    ids = text_file.read_bytes()
    monkeypatch.setattr(task, "CHARACTERS", 3000)
    monkeypatch.setattr(task, "TRAIN", 2000)
    monkeypatch.setattr(task, "VALID", 600)
    monkeypatch.setattr(task, "TEXT_SHA256", task.hashlib.sha256(ids[:3000]).hexdigest())
    return invented


SOURCE = {
    "commit": "abc", "processor": "some CPU", "cores": "2", "system": "Linux", "python": "3.11", "charladder": "0",
    "torch": "2", "numpy": "2",
}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_five_seeds_are_trained_and_recorded(entry, tmp_path, text_file, monkeypatch, capsys):
    results = tmp_path / "new" / "speedrun.csv"
    words = "ladder", "--data", text_file, "--results", results, "--reserve", "20", "--json"
    assert run(monkeypatch, *words) == 0
    assert entry.trained == [(seed, 280.0) for seed in range(5)]
    rows = rows_of(results)
    assert [row["bits_per_character"] for row in rows] == ["2.0", "2.1", "2.2", "2.3", "2.4"]
    assert tuple(rows[0]) == records.COLUMNS and all(value for name, value in rows[0].items() if name != "source")
    assert rows[0].items() >= (SOURCE | {"characters": "400", "context": "128", "told_seconds": "280.000"}).items()
    result = json.loads(capsys.readouterr().out)
    assert result["measured"]["bits_per_character"]["mean"] == pytest.approx(2.2)
    assert result["measured"]["rows"] == rows
    assert run(monkeypatch, *words) == 0
    assert len(entry.trained) == 5 and rows_of(results) == rows


def test_a_later_call_trains_the_seeds_that_are_missing(entry, tmp_path, text_file, monkeypatch, capsys):
    results, entry.stop_at = tmp_path / "speedrun.csv", 2
    words = "ladder", "--data", text_file, "--results", results
    assert run(monkeypatch, *words, "--reserve", "20") == 130
    assert [row["seed"] for row in rows_of(results)] == ["0", "1"]
    entry.stop_at, entry.trained = None, []
    monkeypatch.setattr(speedrun, "choose_reserve", None)  # it is not measured again
    assert run(monkeypatch, *words) == 0
    assert entry.trained == [(2, 280.0), (3, 280.0), (4, 280.0)]
    assert [row["seed"] for row in rows_of(results)] == ["0", "1", "2", "3", "4"]
    assert "seed 1: 2.1000 bits per character (recorded before)" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["commit", "processor", "settings", "seconds"])
def test_rows_of_another_verification_do_not_count(changed, entry, tmp_path, text_file, monkeypatch):
    results = tmp_path / "speedrun.csv"
    words = ["ladder", "--data", text_file, "--results", results, "--reserve", "20", "--seeds", "1"]
    assert run(monkeypatch, *words) == 0
    if changed == "settings":
        entry.settings = "{}"
    elif changed == "seconds":
        words += ["--seconds", "60"]
    else:
        monkeypatch.setattr(speedrun, "describe_source", lambda: SOURCE | {changed: "another"})
    assert run(monkeypatch, *words) == 0
    assert len(entry.trained) == 2 and len(rows_of(results)) == 2


def test_a_process_that_is_late_has_no_row(entry, tmp_path, text_file, monkeypatch, capsys):
    results, entry.program = tmp_path / "speedrun.csv", "import time; time.sleep(60)"

    def short(command, folder, limit, name):
        assert limit == 300
        return run_timed(command, folder, 0.2, name)

    monkeypatch.setattr(speedrun, "run_timed", short)
    assert run(monkeypatch, "ladder", "--data", text_file, "--results", results, "--reserve", "20") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the training of ladder, seed 0, had not ended after 0.2 s, which is its limit; nothing is recorded" in said
    assert "give a larger --reserve than 20.0" in said
    assert not results.exists()


def test_a_process_that_fails_is_reported_with_its_last_line(entry, tmp_path, text_file, monkeypatch, capsys):
    entry.program = "import sys; print('first', file=sys.stderr); sys.exit('no memory')"
    assert run(monkeypatch, "ladder", "--data", text_file, "--results", tmp_path / "r.csv", "--reserve", "20") == 2
    assert "seed 0, failed with exit code 1: no memory" in capsys.readouterr().err
    missing = [str(tmp_path / "none"), "x"]
    with pytest.raises(UserError, match=r"the thing cannot be started: .*No such file"):
        run_timed(missing, tmp_path, 5, "the thing")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_ends_when_its_parent_is_killed(tmp_path):
    child = "import os, time, pathlib; pathlib.Path('child').write_text(str(os.getpid())); time.sleep(60)"
    parent = (
        "import sys, pathlib; from benchmarks.timed_process import run_timed; "
        f"run_timed([sys.executable, '-S', '-c', {child!r}], pathlib.Path(), 60, 'it')"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(speedrun.__file__).parents[2]}:{os.environ.get('PYTHONPATH', '')}",
    }
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=tmp_path, env=environment)
    wait_until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    number = int((tmp_path / "child").read_text())
    assert not has_ended(number)
    process.kill()
    process.wait()
    wait_until(lambda: has_ended(number))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_of_a_process_end_with_it(tmp_path):
    program = (
        "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    )
    child = int(run_timed([sys.executable, "-S", "-c", program], tmp_path, 60, "it").output)
    wait_until(lambda: has_ended(child))


def test_the_reserve_is_measured_by_the_second_warm_up(entry, tmp_path, monkeypatch, capsys):
    seconds = iter([40.0, 9.0])
    monkeypatch.setattr(speedrun, "run_timed", lambda *_: Finished(next(seconds), ""))
    options = speedrun.parse_options(["ladder", "--data", "x"])
    assert speedrun.choose_reserve(entry, options, tmp_path) == 1.5 * 8 + 1
    assert entry.trained == [(0, 1.0), (0, 1.0)]
    assert "13.0 s of 300 for start and end\n" in capsys.readouterr().err
    (tmp_path / "busy").mkdir()
    monkeypatch.setattr(speedrun, "run_timed", lambda *_: Finished(61.0, ""))
    assert speedrun.choose_reserve(entry, options, tmp_path / "busy") == 91
    assert "91.0 s of 300 for start and end; this is much, so the machine may be busy" in capsys.readouterr().err
    (tmp_path / "slow").mkdir()
    monkeypatch.setattr(speedrun, "run_timed", lambda *_: Finished(250.0, ""))
    with pytest.raises(UserError, match="takes 250 s without training; --reserve sets less"):
        speedrun.choose_reserve(entry, options, tmp_path / "slow")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "ENTRY is missing; give one of reference, reference-tuned, ladder, sprint, command, or --table"),
        (["ladder"], "--data is missing"),
        (["ladder", "--page", "x.md"], "--page is for the table; give --table too"),
        (["ladder", "--seconds", "100"], "--seconds is 100; the task has 300 or 60 seconds"),
        (["ladder", "--seconds", "nan"], "--seconds is nan; the task has 300 or 60 seconds"),
        (["ladder", "--seeds", "0"], "--seeds is 0; it must be from 1 to 100"),
        (["ladder", "--seeds", "101"], "--seeds is 101"),
        (["ladder", "--reserve", "300"], "--reserve is 300; it must be from 0 to less than the seconds"),
        (["ladder", "--reserve", "nan"], "--reserve is nan"),
        (["ladder", "--settings", "x.toml"], "--settings is for the entry reference-tuned; leave it out"),
        (["--table", "--page", "none.md"], "none.md cannot be read"),
        (["--table", "--results", "."], "cannot be read"),
        (["command", "--name", "x"], "the entry `command` needs --source"),
        (["command", "--name", "ladder", "--source", "s", "--train", "t", "--predict", "p"], "--name is 'ladder'"),
        (["command", "--name", "X", "--source", "s", "--train", "t", "--predict", "p"], "--name is 'X'; it must be of"),
        (["command", "--name", "x", "--source", "s", "--train", "t", "--predict", "p"], "--train has no {text}"),
        (
            ["command", "--name", "x", "--source", "s", "--train", "'{text}", "--predict", "p"],
            "--train is not a command line: No closing quotation",
        ),
    ],
)
def test_bad_options_are_one_sentence(words, sentence, entry, text_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = [] if sentence.startswith("--data") else ["--data", text_file]
    assert run(monkeypatch, *words, *data) == 2
    said = capsys.readouterr().err
    assert sentence in " ".join(said.split()) and said.count("\n") == 1
    assert not entry.trained


def test_the_task_has_one_text(entry, tmp_path, text_file):
    whole = open_task(str(text_file), 60, quick=False)
    assert (len(whole.ids_N), whole.train_end, whole.test, whole.limit) == (3000, 2000, (2600, 3000), 60)
    longer = open_task(str(text_file), 300, quick=False)
    assert longer.sha256 == whole.sha256
    text_file.write_bytes(b"x" + text_file.read_bytes())
    with pytest.raises(UserError, match="is not the text of the task: its first 3,000 characters have the SHA-256"):
        open_task(str(text_file), 300, quick=False)
    quick = open_task(str(text_file), 2, quick=True)
    assert quick.test == (len(quick.ids_N) - 1000, len(quick.ids_N)) and quick.train_end == quick.test[0] - 1000
    (tmp_path / "short").write_text("abc" * 100)
    with pytest.raises(UserError, match="has 300 characters; give a text with 3,000 or more"):
        open_task(str(tmp_path / "short"), 2, quick=True)


def test_one_verification_at_a_time(entry, text_file, tmp_path, monkeypatch, capsys):
    with speedrun.FileLock(tmp_path / ".speedrun.lock"):
        words = "ladder", "--data", text_file, "--results", tmp_path / "r.csv", "--reserve", "20"
        assert run(monkeypatch, *words) == 2
    assert "another speedrun writes to" in capsys.readouterr().err


def test_settings_of_the_tuned_reference(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there are no tuned settings for 17 seconds"):
        make_entry("reference-tuned", 17, 4_000_000)
    chosen = Settings(layers=4, width=128, heads=2)
    write_settings(tmp_path / "mine.toml", chosen, {})
    entry = make_entry("reference-tuned", 300, 4_000_000, tmp_path / "mine.toml")
    assert entry == ReferenceEntry("reference-tuned", chosen)
    (tmp_path / "text").write_text("abc")
    words = entry.train_command(tmp_path / "text", 290.5, 3, tmp_path)
    assert " ".join(words[3:]).startswith("--train 3 --seconds 290.5 --seed 3 --out ")
    assert words[words.index("--layers") + 1] == "4"


def test_a_recipe_keeps_the_shape_of_its_seconds(tmp_path):
    entry = make_entry("ladder", 300, 4_000_000)
    words = entry.train_command(tmp_path / "text", 280.0, 3, tmp_path)
    shape = json.loads(entry.settings)
    assert {"model.layers", "model.width", "model.context", "training.batch"} <= shape.keys()
    assert all(words[words.index(f"--{name}") + 1] == str(value) for name, value in shape.items())
    assert float(words[words.index("--minutes") + 1]) == pytest.approx(280 / 60)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_verification_of_each_entry(name, tmp_path, text_file, monkeypatch, capsys):
    results = tmp_path / "speedrun.csv"
    words = [name, "--data", text_file, "--quick", "--results", results, "--json"]
    if name == "reference-tuned":
        tuned = Settings(layers=2, width=32, heads=2, feed_forward=64, context=32)
        write_settings(tmp_path / "tuned.toml", tuned, {})
        words += ["--settings", tmp_path / "tuned.toml"]
    assert run(monkeypatch, *words) == 0
    (row,) = rows_of(results)
    assert row["entry"] == name and row["seconds"] == row["told_seconds"].removesuffix(".000") == "2"
    assert 0 < float(row["bits_per_character"]) <= 8.1 and float(row["process_seconds"]) > 2
    assert json.loads(capsys.readouterr().out)["measured"]["rows"] == [row]
    monkeypatch.setattr(speedrun, "run_timed", None)
    assert run(monkeypatch, *words) == 0
    assert rows_of(results) == [row]
