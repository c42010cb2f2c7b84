"""Kills (SIGKILL) of small runs at random moments. After resuming, a run must end as an uninterrupted one.

Each run uses the command line in its own process, forked from this one to avoid importing torch again.
"""

import argparse
import contextlib
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from charladder.cli.main import main
from charladder.run import open_run
from charladder.training.checkpoint import list_checkpoints, load_or_none
from charladder.training.metrics import read_metrics
from charladder.training.tensor_files import load_tensors, tensors_digest

TEXT = "the quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun. " * 60
SMALL_RUN = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "40", "--device", "cpu"]
SMALL_RUN += ["--training.log-every", "1", "--training.checkpoint-seconds", "0.03"]
SMALL_RUN += ["--training.validation-characters", "64"]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts the runs by when they were killed, and failures (LOST), which must be 0."""
    rng = random.Random(options.seed)
    counts = {
        "runs": options.runs, "killed before they began": 0, "killed while training": 0, "killed while saving": 0,
        "ended before they were killed": 0, "LOST: weights that differ": 0, "LOST: lines of metrics": 0,
        "LOST: not resumed": 0, "LOST: unreadable files left": 0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").write_text(TEXT)
        with use_cache(folder / "cache"):
            start(folder, "warm-up", resume=False).join()
            began = time.monotonic()
            assert wait(start(folder, "uninterrupted", resume=False)) == 0, (folder / "uninterrupted.log").read_text()
            duration = time.monotonic() - began
            expected = read_results(folder / "uninterrupted")
            for n in range(options.runs):
                kill_and_resume(
                    folder, f"run-{n}", rng, duration, while_saving=n % 3 == 0, expected=expected, counts=counts
                )
                if n % 20 == 19 or n == options.runs - 1:
                    print(f"kills: {n + 1} of {options.runs}", file=sys.stderr, flush=True)
    return counts


def kill_and_resume(
    folder: Path,
    name: str,
    rng: random.Random,
    duration: float,
    while_saving: bool,
    expected: Any,
    counts: dict[str, Any],
) -> None:
    """Starts a run, kills it, resumes it, and compares the result with that of an uninterrupted run."""
    process = start(folder, name, resume=False)
    if while_saving:
        checkpoint = rng.randrange(1, 6)
        seen: set[str] = set()
        while process.is_alive() and len(seen) < checkpoint:
            with contextlib.suppress(FileNotFoundError):
                seen |= {path.name for path in (folder / name / "checkpoints").iterdir() if path.suffix == ".part"}
        time.sleep(rng.uniform(0, 0.004))
    else:
        time.sleep(rng.uniform(0, duration))
    was_alive = process.is_alive()
    if was_alive:
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    was_saving = any((folder / name).glob("checkpoints/.*.part"))
    has_begun = (folder / name).exists()
    kinds = "killed before they began", "killed while saving", "killed while training", "ended before they were killed"
    counts[kinds[3 if not was_alive else 0 if not has_begun else 1 if was_saving else 2]] += 1
    if wait(start(folder, name, resume=has_begun)) != 0:
        counts["LOST: not resumed"] += 1
        print((folder / f"{name}.log").read_text(), file=sys.stderr)
        return
    weights, lines = read_results(folder / name)
    counts["LOST: weights that differ"] += weights != expected[0]
    counts["LOST: lines of metrics"] += lines != expected[1]
    counts["LOST: unreadable files left"] += len(unreadable_files(folder / name))


def start(folder: Path, name: str, resume: bool) -> Any:
    arguments = ["train", str(folder / "text"), "--run", str(folder / name), *SMALL_RUN]
    if resume:
        arguments = ["train", "--resume", str(folder / name)]
    process = multiprocessing.get_context("fork").Process(target=run_command, args=(arguments, folder / f"{name}.log"))
    process.start()
    return process


def wait(process: Any) -> int:
    process.join()
    return process.exitcode


def run_command(arguments: list[str], log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(main(arguments))


@contextlib.contextmanager
def use_cache(folder: Path) -> Any:
    """Sets the cache folder of charladder."""
    before = os.environ.get("CHARLADDER_CACHE")
    os.environ["CHARLADDER_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("CHARLADDER_CACHE")
        if before is not None:
            os.environ["CHARLADDER_CACHE"] = before


def read_results(path: Path) -> tuple[list[str], list[Any]]:
    """Digests of all tensors, and the metrics without their times."""
    checkpoint = load_or_none(list_checkpoints(path / "checkpoints")[-1])
    assert checkpoint is not None
    parts = checkpoint.network, checkpoint.heads, checkpoint.optimizer
    digests = [
        sha256(b"".join(name.encode() + part[name].numpy().tobytes() for name in sorted(part))).hexdigest()
        for part in parts
    ]
    digests += [tensors_digest(load_tensors(path / f"{name}.safetensors"), {}) for name in ("model", "heads")]
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(path / "metrics.jsonl")]
    return digests, lines


def unreadable_files(path: Path) -> list[str]:
    """Names of unreadable checkpoints and temporary files in a finished run."""
    run = open_run(path)
    run.load_network()
    run.load_objective()
    broken = [
        checkpoint.name for checkpoint in list_checkpoints(path / "checkpoints") if load_or_none(checkpoint) is None
    ]
    return broken + [str(part) for part in [*path.rglob("*.part"), *path.parent.glob(f".{path.name}.part")]]
