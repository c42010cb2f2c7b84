"""Memory and file descriptors of a long run, which must not grow."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from charladder.training.metrics import read_metrics

WARM_UP_SHARE = 0.25  # share of the time before memory is measured
MAX_GROWTH = 0.02  # relative; the memory allocator causes some growth without a leak

SHAPE = ["--layers", "4", "--width", "64", "--context", "64", "--batch", "4", "--training.checkpoint-seconds", "10"]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Samples memory and file descriptors of a training process with checkpoints, validation and diagnosis."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "charladder", "train", "python", "--run", str(folder / "run")]
        command += [*SHAPE, "--minutes", str(options.minutes), "--training.validations", "50"]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "CHARLADDER_CACHE": str(folder / "cache")}
            )
        metrics, samples = folder / "run" / "metrics.jsonl", []
        began: float | None = None
        while process.poll() is None:
            # Starts at the first step: start-up and compilation times differ by machine.
            if began is None and metrics.exists() and metrics.stat().st_size:
                began = time.monotonic()
            if began is not None:
                samples.append((time.monotonic() - began, *sample(process.pid)))
            time.sleep(max(0.2, 0.1 * options.minutes))
        if process.returncode:
            print((folder / "log").read_text(), file=sys.stderr)
        steps = len([line for line in read_metrics(metrics) if "split" not in line])
    duration = 60 * options.minutes
    late = [one for one in samples if WARM_UP_SHARE * duration < one[0] < duration]
    half = len(late) // 2
    first, last = (max(one[1] for one in part) for part in (late[:half], late[half:]))
    files = [[one[2] for one in part] for part in (late[:half], late[half:])]
    return {
        "minutes": options.minutes, "steps": steps, "memory, MiB": round(first / 2**20, 1),
        "memory in the last part, MiB": round(last / 2**20, 1),
        "file descriptors, least and most": [min(*files[0], *files[1]), max(*files[0], *files[1])],
        "LOST: memory, bytes": last - first if last > (1 + MAX_GROWTH) * first else 0,
        # The minimum, because a sample may be taken while a file is being written.
        "LOST: file descriptors": max(0, min(files[1]) - min(files[0])), "LOST: ended with": process.returncode,
        "samples": samples[:: max(1, len(samples) // 60)],
    }  # fmt: skip


def sample(process: int) -> tuple[int, int]:
    """Resident bytes and open files of a process (Linux)."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
