"""The command line under torchrun: two processes on this machine, one of which is killed."""

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


def torchrun(words: list[str], *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*TORCHRUN, *options, "-m", "charladder", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


FSDP = ["--training.parallel", "fsdp", "--training.optimizer", "adamw"]


@pytest.mark.parametrize("more", [[], pytest.param(FSDP, marks=pytest.mark.slow)])
def test_two_processes_train_one_run_and_one_speaks(tmp_path, text_file, more):
    run = tmp_path / "run"
    words = ["train", str(text_file), "--run-dir", str(run), "--steps", "8", *TINY, *more, "--json"]
    process = torchrun(words)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    said = json.loads(out)
    assert (said["steps"], said["run"]) == (8, str(run))
    assert "2 processes, " + ("FSDP" if more else "DDP") in err
    assert [line["step"] for line in read_metrics(run / "metrics.jsonl") if "terms" in line] == list(range(1, 9))
    assert main(["evaluate", str(run), "--json"]) == 0
    assert main(["train", "--resume", str(run), "--extend", "--steps", "10", "--json"]) == 0  # one process goes on


@pytest.mark.slow
def test_a_mistake_is_one_sentence_of_each_rank(tmp_path, text_file):
    process = torchrun(
        ["train", str(text_file), "--run-dir", str(tmp_path / "run"), "--steps", "8", *TINY, "--batch", "3"]
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    sentence = "training.batch is 3 windows for 2 processes; make it a multiple of 2"
    said = [line for line in err.splitlines() if sentence in line]
    assert said  # torchrun ends the other as soon as one has ended, often before it could speak
    assert {*said} <= {f"charladder: {sentence}", f"charladder (rank 1): {sentence}"}
    assert len(said) == len({*said})
    assert "charladder/cli" not in err  # no traceback of ours; torchrun's own is its own
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rank_that_is_killed_is_started_again_and_the_run_finishes(tmp_path, text_file):
    run = tmp_path / "run"
    words = ["train", str(text_file), "--run-dir", str(run), "--steps", "400", *TINY]
    process = torchrun([*words, "--training.checkpoint-seconds", "0.2"], "--max-restarts", "3")
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
def test_many_jobs_at_once_all_come_to_their_end(tmp_path, text_file):
    """On a busy machine four of six waited for ever when they had done their work: see distributed.OUTLIVING."""
    words = ["train", str(text_file), "--steps", "8", *TINY]
    several = [torchrun([*words, "--run-dir", str(tmp_path / str(at))]) for at in range(6)]
    try:
        for process in several:
            _, err = process.communicate(timeout=600)
            assert process.returncode == 0, err
    finally:
        for process in several:
            process.kill()


@pytest.mark.slow
def test_a_request_to_end_reaches_all_through_any_of_them_and_is_saved_once(tmp_path, text_file):
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
    """The processes that torchrun has started, by rank (Linux)."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            its_parent = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
            words = (place / "environ").read_bytes().split(b"\0") if its_parent == parent else []
        except OSError:  # it has ended
            continue
        found |= dict.fromkeys((int(word[5:]) for word in words if word.startswith(b"RANK=")), int(place.name))
    return [found[rank] for rank in sorted(found)]


@pytest.mark.slow
def test_a_job_that_is_started_anew_takes_no_run_that_it_has_not_begun(tmp_path, text_file):
    run = tmp_path / "run"
    assert main(["train", str(text_file), "--run", str(run), "--steps", "2", *TINY, "--json"]) == 0
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    words = ["train", str(text_file), "--run-dir", str(run), "--steps", "8", *TINY]
    process = torchrun(words, "--max-restarts", "1")
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "exists and a run is never overwritten" in err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_job_that_may_be_started_anew_must_name_its_run(tmp_path, text_file):
    process = torchrun(["train", str(text_file), "--steps", "8", *TINY], "--max-restarts", "1")
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "torchrun may restart this job, which must then find its run; give --run-dir DIR" in err


def test_a_rank_ends_without_taking_python_apart(tmp_path):
    """What is left to be destroyed at the end is not, where threads of gloo may still want Python's lock."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os\n"
        "class Left:\n"
        "    def __del__(self, say=os.write):\n"
        "        say(2, b'taken apart')\n"
        "left = Left()\n"
        "atexit.register(print, 'at exit')\n"
    )
    alone = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for more, end in (({}, "taken apart"), ({"TORCHELASTIC_RUN_ID": "none"}, "")):
        done = subprocess.run(
            [sys.executable, "-m", "charladder", "--version"],
            capture_output=True,
            text=True,
            env=alone | more,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, end)
        assert done.stdout.splitlines()[1:] == ["at exit"]
