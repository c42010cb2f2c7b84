"""Interrupted runs are saved or continue, and the resumed run equals an uninterrupted one."""

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

CHARLADDER = [sys.executable, "-m", "charladder"]
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--training.log-every", "1"]
LONG = [*TINY, "--steps", "300"]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text").write_bytes(text_file.read_bytes())
    return tmp_path


def start_training(*arguments: str, program: list[str] = COMMAND_WITH_SLOW_STEPS, **settings) -> subprocess.Popen:
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | settings
    command = [*program, "train", *arguments]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **settings)


def terminal_streams(terminal: int) -> dict[str, Any]:
    """The arguments of Popen for a process that runs in this terminal."""
    return {"stdin": terminal, "stdout": terminal, "stderr": terminal, "start_new_session": True}


def wait_for_steps(path: Path, steps: int = 20) -> bool:
    """Waits until a run has logged `steps` steps; False after 240 seconds."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
        metrics = path / "metrics.jsonl"
        if metrics.exists() and len(metrics.read_text().splitlines()) > steps:
            return True
        time.sleep(0.01)
    return False


def assert_same_run(run: str, other: str) -> None:
    for name in ("model.safetensors", "heads.safetensors"):
        assert_same_tensors(Path(run, name), Path(other, name))
    lines = [[{**line, "seconds": 0} for line in read_metrics(Path(path, "metrics.jsonl"))] for path in (run, other)]
    assert lines[0] == lines[1]


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is not interrupted."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLADDER_CACHE", new_cache(folder / "cache"))
        patch.chdir(folder)
        Path("text").write_text(PROSE * 20)
        assert main(["train", "text", "--run", "whole", *LONG, "--json"]) == 0
    return folder / "whole"


@pytest.fixture
def uninterrupted(workdir: Path, uninterrupted_run: Path) -> str:
    shutil.copytree(uninterrupted_run, "whole")
    return "whole"


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGHUP, signal.SIGINT))],
)
def test_signal_saves_the_run_and_the_resumed_run_is_the_same(workdir, uninterrupted, number):
    process = start_training("text", "--run", "cut", *LONG)
    assert wait_for_steps(Path("cut"))
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert b"stopped and saved; continue with: charladder train --resume cut" in out
    assert b"Traceback" not in err
    (checkpoint,) = list_checkpoints(Path("cut/checkpoints"))
    assert 20 <= int(checkpoint.name) < 300
    assert main(["train", "--resume", "cut", "--json"]) == 0
    assert_same_run("cut", uninterrupted)


@pytest.mark.slow
def test_nohup_ignores_sighup(workdir, uninterrupted):
    process = start_training("text", "--run", "cut", *LONG, program=["nohup", *CHARLADDER])
    assert wait_for_steps(Path("cut"))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=600)
    assert process.returncode == 0
    assert_same_run("cut", uninterrupted)


@pytest.mark.slow
def test_closed_terminal_with_sighup(workdir, uninterrupted):
    """A shell sends SIGHUP to its jobs when its terminal closes, and their output can no longer be written."""
    ours, theirs = pty.openpty()
    process = start_training("text", "--run", "cut", *LONG, **terminal_streams(theirs))
    os.close(theirs)
    assert wait_for_steps(Path("cut"))
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=600) == 130
    assert main(["train", "--resume", "cut", "--json"]) == 0
    assert_same_run("cut", uninterrupted)


@pytest.mark.slow
def test_closed_terminal_without_sighup(workdir, uninterrupted):
    """Without job control a process gets no signal: the run continues to its end, and its output is lost."""
    ours, theirs = pty.openpty()
    process = start_training("text", "--run", "cut", *LONG, program=CHARLADDER, **terminal_streams(theirs))
    os.close(theirs)
    assert wait_for_steps(Path("cut"))
    os.close(ours)
    assert process.wait(timeout=600) == 0
    assert_same_run("cut", uninterrupted)


@pytest.mark.slow
def test_closed_stdout_does_not_end_the_run(workdir, uninterrupted):
    process = start_training("text", "--run", "cut", *LONG, program=CHARLADDER)
    assert wait_for_steps(Path("cut"))
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=600) == 0
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert_same_run("cut", uninterrupted)


@pytest.mark.slow
def test_data_deleted_during_training(workdir, uninterrupted):
    process = start_training("text", "--run", "cut", *LONG, program=CHARLADDER)
    assert wait_for_steps(Path("cut"))
    Path("text").unlink()
    process.communicate(timeout=600)
    assert process.returncode == 0
    assert_same_run("cut", uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["deleted", "changed"])
def test_resume_needs_the_unchanged_data(workdir, uninterrupted, change, capsys):
    """The cache has no copy of the text."""
    process = start_training("text", "--run", "cut", *LONG)
    assert wait_for_steps(Path("cut"))
    data = Path("text").read_bytes()
    Path("text").unlink() if change == "deleted" else Path("text").write_bytes(data + b"!")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=600)
    assert process.returncode == 130
    text_path(open_run(Path("cut")).recipe.text.sha256).unlink()
    capsys.readouterr()
    assert main(["train", "--resume", "cut"]) == 2
    err = capsys.readouterr().err
    assert ("no file or corpus" if change == "deleted" else "has changed since cut began") in err
    Path("text").write_bytes(data)
    assert main(["train", "--resume", "cut", "--json"]) == 0
    assert_same_run("cut", uninterrupted)


def test_time_budget_does_not_depend_on_the_system_clock(workdir, monkeypatch):
    """Training time is measured with a monotonic clock; here the system clock goes back a day at every call."""
    now = [1e9]

    def system_time() -> float:
        now[0] -= 86400
        return now[0]

    monkeypatch.setattr(time, "time", system_time)
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * system_time()))
    start = time.monotonic()
    assert main(["train", "text", "--run", "run", *TINY, "--minutes", "0.03", "--json"]) == 0
    assert 1.8 <= time.monotonic() - start < 60
    lines = [line for line in read_metrics(Path("run/metrics.jsonl")) if "split" not in line]
    seconds, progress = [line["seconds"] for line in lines], [line["progress"] for line in lines]
    assert seconds == sorted(seconds) and seconds[0] >= 0
    assert progress == sorted(progress)


@pytest.mark.slow
def test_resume_after_kill_removes_partial_files(workdir, uninterrupted):
    process = start_training("text", "--run", "cut", *LONG)
    assert wait_for_steps(Path("cut"))
    process.kill()
    process.communicate()
    for part in ("cut/.model.safetensors.part", "cut/checkpoints/.7.part/network.safetensors"):
        Path(part).parent.mkdir(parents=True, exist_ok=True)
        Path(part).write_bytes(b"half")
    assert main(["train", "--resume", "cut", "--json"]) == 0
    assert not list(Path("cut").rglob("*.part"))
    assert_same_run("cut", uninterrupted)


def test_partial_run_directory_of_an_ended_process_is_removed(workdir):
    ended_process = subprocess.Popen([sys.executable, "-c", ""])
    ended_process.wait()
    host = re.sub(r"\W", "", platform.node())
    abandoned, active = Path(f".run.{host}-{ended_process.pid}.part"), Path(f".run.{host}-{os.getppid()}.part")
    for path in (abandoned, active):
        path.mkdir()
        (path / "config.toml").write_text("half")
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", "--json"]) == 0
    assert not abandoned.exists()
    assert active.exists()  # its process is running


def test_damaged_checkpoint_is_reported_and_the_previous_one_is_used(workdir, uninterrupted, capsys):
    newest = list_checkpoints(Path(uninterrupted, "checkpoints"))[-1]
    assert main(["train", "--resume", uninterrupted, "--extend", "--steps", "320", "--json"]) == 0
    newest = list_checkpoints(Path(uninterrupted, "checkpoints"))[-1]
    path = newest / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert main(["train", "--resume", uninterrupted]) == 0
    captured = capsys.readouterr()
    assert f"note: {path} is damaged, and its checkpoint is not used: its checksum is not that of state.json" in (
        captured.err
    )
    assert "continuing from step 300" in captured.out


@pytest.mark.slow
def test_batch_auto_keeps_the_batch_and_sets_micro_batch(workdir, monkeypatch, capsys):
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


def test_out_of_memory_error_suggests_a_micro_batch(workdir, monkeypatch, capsys):
    def step(self):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("charladder.training.Trainer.step", step)
    assert main(["train", "text", "--run", "run", *TINY, "--batch", "8", "--steps", "2"]) == 2
    err = capsys.readouterr().err
    assert "8 windows at once do not fit into the memory of cpu" in err
    assert "--training.micro-batch 4 (the same batch in parts)" in err


def test_memory_estimate_error_suggests_a_batch_that_fits(workdir, monkeypatch, capsys):
    monkeypatch.setattr("charladder.cli.estimate.device_memory", lambda device: (2_600_000, 2_600_000))
    assert main(["train", "text", "--run", "run", *TINY, "--batch", "512", "--steps", "2"]) == 2
    err = capsys.readouterr().err
    assert "this network cannot be trained here" in err
    windows = int(err.split("(--batch ")[1].split()[0])
    assert main(["train", "text", "--run", "run", *TINY, "--batch", str(windows), "--steps", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.slow
def test_failed_run_with_closed_output_exits_with_code_one(workdir):
    diverging = ["--training.optimizer", "momentum", "--training.learning-rate", "1e25", "--training.clip", "0"]
    process = start_training("text", "--run", "run", *LONG, *diverging)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=600) == 1


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "checkpoints", "model.safetensors"])
def test_symlink_in_a_run_directory_is_refused(workdir, name, capsys):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", "--json"]) == 0
    outside = Path("outside")
    Path("run", name).rename(outside)
    Path("run", name).symlink_to(outside.resolve())
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--extend", "--steps", "4"]) == 2
    assert f"{name} is not a regular" in capsys.readouterr().err


def test_symlink_with_the_name_of_a_partial_file_is_not_followed(workdir):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", "--json"]) == 0
    Path("precious").write_text("precious")
    for name in (".config.toml.part", ".metrics.jsonl.part", ".model.safetensors.part"):
        Path("run", name).symlink_to(Path("precious").resolve())
    assert main(["train", "--resume", "run", "--extend", "--steps", "4", "--json"]) == 0
    assert Path("precious").read_text() == "precious"
    assert not Path("run/config.toml").is_symlink()


@pytest.mark.slow
def test_damaged_checkpoint_does_not_replace_a_good_one(workdir):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "3", "--json"]) == 0
    for steps in ("5", "7"):
        assert main(["train", "--resume", "run", "--extend", "--steps", steps, "--json"]) == 0
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["5", "7"]
    Path("run/checkpoints/7/state.json").write_text("{}")
    assert main(["train", "--resume", "run", "--extend", "--steps", "9", "--json"]) == 0
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["5", "9"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_checkpoint_with_an_endless_file_is_not_used(workdir, kind, capsys):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "3", "--json"]) == 0
    assert main(["train", "--resume", "run", "--extend", "--steps", "5", "--json"]) == 0
    state = Path("run/checkpoints/5/state.json")
    state.unlink()
    state.symlink_to("/dev/zero") if kind == "link" else os.mkfifo(state)
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    captured = capsys.readouterr()
    assert "state.json is damaged, and its checkpoint is not used: it is not a regular file" in captured.err
    assert "continuing from step 3" in captured.out


@pytest.mark.parametrize("arguments", [["--layers", "auto"], ["--seed", "auto"], ["--training.micro-batch", "auto"]])
def test_auto_is_only_for_the_batch_of_a_new_run(workdir, arguments, capsys):
    assert main(["train", "text", "--run", "run", *TINY, "--steps", "2", *arguments]) == 2
    assert "'auto'; it must be a whole number" in capsys.readouterr().err
    assert main(["inspect", "t12", "--batch", "auto"]) == 2
