"""The command line under torchrun, with two processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from charladder.cli.main import main
from charladder.training.checkpoint import list_checkpoints
from charladder.training.metrics import read_metrics

TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "4", "--training.log-every", "1"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def torchrun(arguments: list[str], *options: str) -> subprocess.Popen:
    command = [*TORCHRUN, *options, "-m", "charladder", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


FSDP = ["--training.parallel", "fsdp", "--training.optimizer", "adamw"]


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], FSDP])
def test_two_processes_train_one_run_and_rank_zero_prints(tmp_path, text_file, more):
    run = tmp_path / "run"
    arguments = ["train", str(text_file), "--run-dir", str(run), "--steps", "8", *TINY, *more, "--json"]
    process = torchrun(arguments)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    summary = json.loads(out)
    assert (summary["steps"], summary["run"]) == (8, str(run))
    assert "2 processes, " + ("FSDP" if more else "DDP") in err
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "terms" in line] == list(range(1, 9))
    assert main(["evaluate", str(run), "--json"]) == 0
    assert main(["train", "--resume", str(run), "--extend", "--steps", "10", "--json"]) == 0  # with one process


@pytest.mark.slow
def test_a_user_error_is_one_sentence_of_each_rank(tmp_path, text_file):
    process = torchrun(
        ["train", str(text_file), "--run-dir", str(tmp_path / "run"), "--steps", "8", *TINY, "--batch", "3"]
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    sentence = "training.batch is 3 windows for 2 processes; make it a multiple of 2"
    messages = [line for line in err.splitlines() if sentence in line]
    assert messages  # of one rank at least, because torchrun stops the other one when the first has ended
    assert {*messages} <= {f"charladder: {sentence}", f"charladder (rank 1): {sentence}"}
    assert len(messages) == len({*messages})
    assert "charladder/cli" not in err  # no traceback of charladder; torchrun prints its own
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_run_finishes(tmp_path, text_file):
    run = tmp_path / "run"
    arguments = ["train", str(text_file), "--run-dir", str(run), "--steps", "400", *TINY]
    process = torchrun([*arguments, "--training.checkpoint-seconds", "0.2"], "--max-restarts", "3")
    end = time.monotonic() + 240
    while not list_checkpoints(run / "checkpoints") and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    ranks = workers(process.pid)
    assert len(ranks) == 2, process.poll()
    os.kill(ranks[1], signal.SIGKILL)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert "continuing from step" in out
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "terms" in line] == list(range(1, 401))


@pytest.mark.slow
def test_many_jobs_at_the_same_time_all_end(tmp_path, text_file):
    """Tests against the deadlock at exit that distributed._OPEN_GROUPS prevents, which needs a busy machine."""
    arguments = ["train", str(text_file), "--steps", "8", *TINY]
    processes = [torchrun([*arguments, "--run-dir", str(tmp_path / str(at))]) for at in range(6)]
    try:
        for process in processes:
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
def test_sigterm_to_any_rank_stops_all_ranks_and_saves_once(tmp_path, text_file):
    run = tmp_path / "run"
    process = torchrun(["train", str(text_file), "--run-dir", str(run), "--steps", "4000", *TINY])
    metrics, end = run / "metrics.jsonl", time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().count("\n") > 5) and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(workers(process.pid)[1], signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "stopped and saved; continue with: charladder train --resume" in out, err
    (checkpoint,) = list_checkpoints(run / "checkpoints")
    steps = [line["step"] for line in read_metrics(metrics) if "terms" in line]
    assert steps == list(range(1, int(checkpoint.name) + 1))


def workers(parent: int) -> list[int]:
    """The ids of the processes that torchrun has started, by rank (Linux)."""
    process_ids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent_of_process = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            variables = (folder / "environ").read_bytes().split(b"\0") if parent_of_process == parent else []
        except OSError:  # the process has ended
            continue
        ranks = [int(variable[5:]) for variable in variables if variable.startswith(b"RANK=")]
        process_ids |= dict.fromkeys(ranks, int(folder.name))
    return [process_ids[rank] for rank in sorted(process_ids)]


@pytest.mark.slow
def test_a_restarted_job_does_not_resume_a_run_that_it_has_not_created(tmp_path, text_file):
    run = tmp_path / "run"
    assert main(["train", str(text_file), "--run", str(run), "--steps", "2", *TINY, "--json"]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    arguments = ["train", str(text_file), "--run-dir", str(run), "--steps", "8", *TINY]
    process = torchrun(arguments, "--max-restarts", "1")
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "exists and a run is never overwritten" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_job_with_max_restarts_must_name_its_run(tmp_path, text_file):
    process = torchrun(["train", str(text_file), "--steps", "8", *TINY], "--max-restarts", "1")
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "torchrun may restart this job, which must then find its run; give --run-dir DIR" in err


def test_a_rank_exits_without_finalizing_python(tmp_path):
    """Under torchrun objects are not destroyed at exit, because threads of gloo may still need the GIL."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\n"
        "class Object:\n"
        "    def __del__(self, write=os.write):\n"
        "        write(2, b'destroyed')\n"
        "remaining = Object()\n"
        "atexit.register(print, 'at exit')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for variables, output in (({}, "destroyed"), ({"TORCHELASTIC_RUN_ID": "none"}, "")):
        result = subprocess.run(
            [sys.executable, "-m", "charladder", "--version"],
            capture_output=True,
            text=True,
            env=environment | variables,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, output)
        assert result.stdout.splitlines()[1:] == ["at exit"]
