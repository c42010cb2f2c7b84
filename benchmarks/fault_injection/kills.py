"""Tiny runs that are killed (SIGKILL) at a random moment and resumed: do they end as the undisturbed one?

Each is a process of its own, forked from this one so that it need not load torch anew, and goes through the command
line.
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
from charladder.training.checkpoint import list_checkpoints, load
from charladder.training.metrics import read_metrics
from charladder.training.tensor_files import digest_of, load_tensors

TEXT = "the ladder leans on the wall, and every layer of it is asked what it sees. " * 60
TINY = ["--layers", "2", "--width", "16", "--context", "16", "--batch", "2", "--steps", "40", "--device", "cpu"]
TINY += ["--training.log-every", "1", "--training.checkpoint-seconds", "0.03", "--training.validation-characters", "64"]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts what was seen; what is LOST must be nothing."""
    draw = random.Random(options.seed)
    found = {
        "runs": options.runs, "killed before they began": 0, "killed while training": 0, "killed while saving": 0,
        "ended before they were killed": 0, "LOST: weights that differ": 0, "LOST: lines of metrics": 0,
        "LOST: not resumed": 0, "LOST: unreadable files left": 0,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "text").write_text(TEXT)
        with cache(folder / "cache"):
            start(folder, "warm", again=False).join()
            began = time.monotonic()
            assert ended(start(folder, "whole", again=False)) == 0, (folder / "whole.log").read_text()
            length = time.monotonic() - began
            whole = facts(folder / "whole")
            for at in range(options.runs):
                disturbed(folder, f"run-{at}", draw, length, saving=at % 3 == 0, whole=whole, found=found)
                if at % 20 == 19 or at == options.runs - 1:
                    print(f"kills: {at + 1} of {options.runs}", file=sys.stderr, flush=True)
    return found


def disturbed(
    folder: Path, name: str, draw: random.Random, length: float, saving: bool, whole: Any, found: dict[str, Any]
) -> None:
    """One run, killed and resumed."""
    process = start(folder, name, again=False)
    if saving:
        places = draw.randrange(1, 6)  # which of its checkpoints
        seen: set[str] = set()
        while process.is_alive() and len(seen) < places:
            with contextlib.suppress(FileNotFoundError):
                seen |= {path.name for path in (folder / name / "checkpoints").iterdir() if path.suffix == ".part"}
        time.sleep(draw.uniform(0, 0.004))
    else:
        time.sleep(draw.uniform(0, length))
    alive = process.is_alive()
    if alive:
        os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    half = any((folder / name).glob("checkpoints/.*.part"))
    there = (folder / name).exists()
    kinds = "killed before they began", "killed while saving", "killed while training", "ended before they were killed"
    found[kinds[3 if not alive else 0 if not there else 1 if half else 2]] += 1
    if ended(start(folder, name, again=there)) != 0:
        found["LOST: not resumed"] += 1
        print((folder / f"{name}.log").read_text(), file=sys.stderr)
        return
    weights, lines = facts(folder / name)
    found["LOST: weights that differ"] += weights != whole[0]
    found["LOST: lines of metrics"] += lines != whole[1]
    found["LOST: unreadable files left"] += len(unreadable(folder / name))


def start(folder: Path, name: str, again: bool) -> Any:
    words = ["train", str(folder / "text"), "--run", str(folder / name), *TINY]
    if again:
        words = ["train", "--resume", str(folder / name)]
    process = multiprocessing.get_context("fork").Process(target=work, args=(words, folder / f"{name}.log"))
    process.start()
    return process


def ended(process: Any) -> int:
    process.join()
    return process.exitcode


def work(words: list[str], log: Path) -> None:
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os._exit(main(words))


@contextlib.contextmanager
def cache(folder: Path) -> Any:
    before = os.environ.get("CHARLADDER_CACHE")
    os.environ["CHARLADDER_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("CHARLADDER_CACHE")
        if before is not None:
            os.environ["CHARLADDER_CACHE"] = before


def facts(path: Path) -> tuple[list[str], list[Any]]:
    """The bits of all that was learned, and the metrics without their seconds."""
    checkpoint = load(list_checkpoints(path / "checkpoints")[-1])
    assert checkpoint is not None
    parts = checkpoint.network, checkpoint.heads, checkpoint.optimizer
    marks = [
        sha256(b"".join(name.encode() + part[name].numpy().tobytes() for name in sorted(part))).hexdigest()
        for part in parts
    ]
    marks += [digest_of(load_tensors(path / f"{name}.safetensors"), {}) for name in ("model", "heads")]
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in read_metrics(path / "metrics.jsonl")]
    return marks, lines


def unreadable(path: Path) -> list[str]:
    """What lies in a finished run that is none of its files, or cannot be read."""
    run = open_run(path)
    run.network()
    run.objective()
    broken = [one.name for one in list_checkpoints(path / "checkpoints") if load(one) is None]
    return broken + [str(part) for part in [*path.rglob("*.part"), *path.parent.glob(f".{path.name}.part")]]
