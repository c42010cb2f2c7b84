"""Whatever ends a run from outside: it is saved, or goes on, and the resumed one is the one that nobody disturbed."""

import json
import os
import platform
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from caches import new_cache
from charladder.cli.main import main
from charladder.run import open_run
from charladder.text import text_path
from charladder.training.checkpoint import list_checkpoints
from charladder.training.metrics import read_metrics
from helpers import COMMAND_WITH_SLOW_STEPS, PROSE, assert_same_tensors

LADDER = [sys.executable, "-m", "charladder"]
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--training.log-every", "1"]
LONG = [*TINY, "--steps", "300"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text").write_bytes(text_file.read_bytes())
    return tmp_path


def begin(*words: str, program: list[str] = COMMAND_WITH_SLOW_STEPS, **settings) -> subprocess.Popen:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    command = [*program, "train", *words]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **settings)


def within(terminal: int) -> dict[str, Any]:
    """Of a process that has this terminal."""
    return {"stdin": terminal, "stdout": terminal, "stderr": terminal, "start_new_session": True}


def trained(path: Path, steps: int = 20) -> bool:
    """Waits until a run has logged so many steps."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        metrics = path / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) > steps:
            return True
        time.sleep(0.01)
    return False


def same(one: str, other: str) -> None:
    for name in ("model.safetensors", "heads.safetensors"):
        assert_same_tensors(Path(one, name), Path(other, name))
    lines = [[{**line, "seconds": 0} for line in read_metrics(Path(run, "metrics.jsonl"))] for run in (one, other)]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        patch.chdir(folder)
        Path("text").write_text(PROSE * 20)
        assert main(["train", "text", "--run", "whole", *LONG, "--json"]) == 0
    return folder / "whole"


@pytest.fixture
def whole(here: Path, trained_once: Path) -> str:
    shutil.copytree(trained_once, "whole")
    return "whole"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGHUP, signal.SIGINT))]
)
def test_a_signal_ends_the_step_saves_and_the_resumed_run_is_the_same(here, whole, number):
    process = begin("text", "--run", "cut", *LONG)
    assert trained(Path("cut"))
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert b"stopped and saved; continue with: charladder train --resume cut" in out
    assert b"Traceback" not in err
    (checkpoint,) = list_checkpoints(Path("cut/checkpoints"))
    assert 20 <= int(checkpoint.name) < 300
    assert main(["train", "--resume", "cut", "--json"]) == 0
    same("cut", whole)


@pytest.mark.slow
def test_a_hang_up_that_nohup_has_silenced_stays_silent(here, whole):
    process = begin("text", "--run", "cut", *LONG, program=["nohup", *LADDER])
    assert trained(Path("cut"))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=600)
    assert process.returncode == 0
    same("cut", whole)


@pytest.mark.slow
def test_a_terminal_that_closes(here, whole):
    """Whoever closes a terminal hangs up on what runs in it, and nobody reads what it says any more."""
    ours, theirs = pty.openpty()
    process = begin("text", "--run", "cut", *LONG, **within(theirs))
    os.close(theirs)
    assert trained(Path("cut"))
    os.close(ours)
    process.send_signal(signal.SIGHUP)  # a shell sends it to its jobs
    assert process.wait(timeout=600) == 130
    assert main(["train", "--resume", "cut", "--json"]) == 0
    same("cut", whole)


@pytest.mark.slow
def test_a_terminal_that_closes_without_a_word(here, whole):
    """Whoever has no job control gets no signal: what is said is said to nobody, and the run goes on to its end."""
    ours, theirs = pty.openpty()
    process = begin("text", "--run", "cut", *LONG, program=LADDER, **within(theirs))
    os.close(theirs)
    assert trained(Path("cut"))
    os.close(ours)
    assert process.wait(timeout=600) == 0
    same("cut", whole)


@pytest.mark.slow
def test_a_reader_of_the_output_that_leaves_does_not_end_the_run(here, whole):
    process = begin("text", "--run", "cut", *LONG, program=LADDER)
    assert trained(Path("cut"))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=600) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    same("cut", whole)


@pytest.mark.slow
def test_data_that_is_deleted_under_a_run_is_no_loss_while_it_runs(here, whole):
    process = begin("text", "--run", "cut", *LONG, program=LADDER)
    assert trained(Path("cut"))
    Path("text").unlink()
    process.communicate(timeout=600)
    assert process.returncode == 0
    same("cut", whole)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["deleted", "changed"])
def test_data_that_is_gone_or_another_refuses_to_go_on_and_goes_on_when_it_is_back(here, whole, change, capsys):
    """Where the cache has no copy of it."""
    process = begin("text", "--run", "cut", *LONG)
    assert trained(Path("cut"))
    data = Path("text").read_bytes()
    Path("text").unlink() if change == "deleted" else Path("text").write_bytes(data + b"!")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 130
    text_path(open_run(Path("cut")).recipe.text.sha256).unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "cut"]) == 2
    said = capsys.readouterr().err
    assert ("no file or corpus" if change == "deleted" else "has changed since cut began") in said
    Path("text").write_bytes(data)
    assert main(["train", "--resume", "cut", "--json"]) == 0
    same("cut", whole)


def test_a_clock_that_is_set_back_changes_nothing(here, monkeypatch):
    """Time is counted by a clock that nobody sets; the one on the wall goes back a day in the middle."""
    now = [1e9]

    def wall() -> float:
        now[0] -= 86400
        return now[0]

    monkeypatch.setattr(time, "time", wall)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * wall()))
    began = time.monotonic()
    assert main(["train", "text", "--run", "run", *TINY, "--minutes", "0.03", "--json"]) == 0
    assert 1.8 <= time.monotonic() - began < 60
    lines = [line for line in read_metrics(Path("run/metrics.jsonl")) if "split" not in line]
    seconds, progress = [line["seconds"] for line in lines], [line["progress"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert progress == sorted(progress)


@pytest.mark.slow
def test_a_run_that_was_killed_leaves_nothing_half_written_when_it_is_resumed(here, whole):
    process = begin("text", "--run", "cut", *LONG)
    assert trained(Path("cut"))
    process.kill()
    process.communicate()
    for part in ("cut/.model.safetensors.part", "cut/checkpoints/.7.part/network.safetensors"):
        Path(part).parent.mkdir(parents=True, exist_ok=True)
        Path(part).write_bytes(b"half")
    assert main(["train", "--resume", "cut", "--json"]) == 0
    assert not list(Path("cut").rglob("*.part"))
    same("cut", whole)


def test_a_run_that_is_killed_before_it_has_begun_is_begun_again(here):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = re.sub(r"\W", "", platform.node())
    part, other = Path(f".run.{host}-{gone.pid}.part"), Path(f".run.{host}-{os.getppid()}.part")
    for one in (part, other):
        one.mkdir()
        (one / "config.toml").write_text("half")
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", "--json"]) == 0
    assert not part.exists()
    assert other.exists()  # of a process that is at it


def test_what_is_wrong_with_a_checkpoint_is_said_and_the_one_before_is_used(here, whole, capsys):
    newest = list_checkpoints(Path(whole, "checkpoints"))[-1]
    assert main(["train", "--resume", whole, "--extend", "--steps", "320", "--json"]) == 0
    newest = list_checkpoints(Path(whole, "checkpoints"))[-1]
    path = newest / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["train", "--resume", whole]) == 0
    captured = capsys.readouterr()
    assert f"note: {path} is damaged, and its checkpoint is not used: its checksum is not that of state.json" in (
        captured.err
    )
    assert "continuing from step 300" in captured.out


def test_batch_auto_keeps_the_batch_and_finds_how_many_windows_fit(here, monkeypatch, capsys):
    def config(run):
        return tomllib.loads(Path(run, "config.toml").read_text())["training"]

    small = [*TINY[:6], "--training.log-every", "1", "--steps", "2", "--json"]
    assert main(["train", "text", "--run", "all", *small, "--batch", "auto"]) == 0
    assert (config("all")["batch"], config("all")["micro_batch"]) == (8, 0)
    monkeypatch.setattr("charladder.cli.estimate.device_memory", lambda device: (1_200_000, 2_600_000_000))
    assert main(["train", "text", "--run", "few", *small, "--batch", "auto"]) == 0
    assert config("few")["batch"] == 8
    assert 0 < config("few")["micro_batch"] < 8
    monkeypatch.setattr("charladder.cli.estimate.device_memory", lambda device: (1000, 2_600_000_000))
    capsys.readouterr()
    assert main(["train", "text", "--run", "none", *small, "--batch", "auto"]) == 2
    assert "not even one window of 16 characters fits" in capsys.readouterr().err
    assert not Path("none").exists()


def test_memory_that_is_refused_names_the_batch_that_fits(here, monkeypatch, capsys):
    def step(self):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("charladder.training.Trainer.step", step)
    assert main(["train", "text", "--run", "run", *TINY, "--batch", "8", "--steps", "2"]) == 2
    said = capsys.readouterr().err
    assert "8 windows at once do not fit into the memory of cpu" in said
    assert "--training.micro-batch 4 (the same batch in parts)" in said


def test_what_cannot_fit_names_what_would(here, monkeypatch, capsys):
    monkeypatch.setattr("charladder.cli.estimate.device_memory", lambda device: (2_600_000, 2_600_000))
    assert main(["train", "text", "--run", "run", *TINY, "--batch", "512", "--steps", "2"]) == 2
    said = capsys.readouterr().err
    assert "this network cannot be trained here" in said
    windows = int(said.split("(--batch ")[1].split()[0])
    assert main(["train", "text", "--run", "run", *TINY, "--batch", str(windows), "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


def test_a_reader_that_leaves_a_run_that_goes_wrong_does_not_make_it_well(here):
    bad = ["--training.optimizer", "momentum", "--training.learning-rate", "1e25", "--training.clip", "0"]
    process = begin("text", "--run", "run", *LONG, *bad)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=600) == 1


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "checkpoints", "model.safetensors"])
def test_a_link_in_a_run_directory_is_not_followed(here, name, capsys):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", "--json"]) == 0
    outside = Path("outside")
    Path("run", name).rename(outside)
    Path("run", name).symlink_to(outside.resolve())
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--extend", "--steps", "4"]) == 2
    assert f"{name} is no plain" in capsys.readouterr().err


def test_a_planted_link_under_the_name_of_a_part_is_not_written_through(here):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", "--json"]) == 0
    Path("precious").write_text("precious")
    for name in (".config.toml.part", ".metrics.jsonl.part", ".model.safetensors.part"):
        Path("run", name).symlink_to(Path("precious").resolve())
    assert main(["train", "--resume", "run", "--extend", "--steps", "4", "--json"]) == 0
    assert Path("precious").read_text() == "precious"
    assert not Path("run/config.toml").is_symlink()


def test_a_damaged_checkpoint_is_not_kept_in_place_of_a_good_one(here):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "3", "--json"]) == 0
    for steps in ("5", "7"):
        assert main(["train", "--resume", "run", "--extend", "--steps", steps, "--json"]) == 0
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["5", "7"]
    Path("run/checkpoints/7/state.json").write_text("{}")
    assert main(["train", "--resume", "run", "--extend", "--steps", "9", "--json"]) == 0
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["5", "9"]


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_checkpoint_with_a_file_that_never_ends_is_passed_over(here, what, capsys):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "3", "--json"]) == 0
    assert main(["train", "--resume", "run", "--extend", "--steps", "5", "--json"]) == 0
    place = Path("run/checkpoints/5/state.json")
    place.unlink()
    place.symlink_to("/dev/zero") if what == "link" else os.mkfifo(place)
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    captured = capsys.readouterr()
    assert "state.json is damaged, and its checkpoint is not used: it is no plain file" in captured.err
    assert "continuing from step 3" in captured.out


@pytest.mark.parametrize("words", [["--layers", "auto"], ["--seed", "auto"], ["--training.micro-batch", "auto"]])
def test_auto_is_for_the_batch_of_a_new_run_alone(here, words, capsys):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", *words]) == 2
    assert "'auto'; it must be a whole number" in capsys.readouterr().err
    assert main(["inspect", "t12", "--batch", "auto"]) == 2
