"""Do speed, memory and start-up time depend on the size of the text?

Sparse files of 1 MB, 100 MB and 10 GB with the same words are converted, which is timed, and then used for training,
each in its own process. Reports medians of the time until the first logged step, characters per second after that,
and peak memory.

    python -m benchmarks growth --steps 300 --repeats 3
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import report

TEXT = b"the quick brown fox jumps over the lazy dog, and the dog sleeps on in the sun. " * 10_000


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=__doc__)
    parser.add_argument("--bytes", type=int, nargs="+", default=[1_000_000, 100_000_000, 10_000_000_000])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="1 MB and 1 GB, 20 steps, once")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.bytes, options.steps, options.repeats = [1_000_000, 1_000_000_000], 20, 1
    measured: dict[str, dict[str, Any]] = {
        f"{size:,} bytes": {"first_step_s": [], "characters_per_second": [], "peak_bytes": []} for size in options.bytes
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size, figures in zip(options.bytes, measured.values(), strict=True):
            sparse_text(folder / str(size), size)
            began = time.perf_counter()
            train(folder, str(size), 1)
            figures["conversion_s"] = time.perf_counter() - began
        for _ in range(options.repeats):
            for size, figures in zip(options.bytes, measured.values(), strict=True):
                for key, value in train(folder, str(size), options.steps).items():
                    figures[key].append(value)
    rows = [["", "first use", "first step", "characters/s", "peak memory"]]
    medians = []
    for name, figures in measured.items():
        keys = "first_step_s", "characters_per_second", "peak_bytes"
        first, speed, peak = middle = [statistics.median(figures[key]) for key in keys]
        medians.append(middle)
        row = f"{figures['conversion_s']:.1f} s", f"{first:.1f} s", f"{speed:,.0f}", f"{peak / 2**20:.0f} MiB"
        rows.append([name, *row])
    small, huge = medians[0], medians[-1]
    ratios = {
        "first_step_cost": huge[0] / small[0],
        "characters_per_second": huge[1] / small[1],
        "peak_memory_cost": huge[2] / small[2],
    }
    settings = {"bytes": options.bytes, "steps": options.steps, "repeats": options.repeats, "recipe": "ladder"}
    report("do speed and memory depend on the size of the text?", ratios, measured, settings, rows, options.json)
    return 0


def sparse_text(path: Path, size: int) -> None:
    """Writes a file of `size` bytes with text at 200 positions and at its end, and holes between them."""
    text = TEXT[: max(1, size // 400)]
    with path.open("wb") as file:
        for position in (*range(0, size - len(text), max(1, size // 200)), size - len(text)):
            file.seek(position)
            file.write(text)


def train(folder: Path, text: str, steps: int) -> dict[str, float]:
    """Trains a run. Returns seconds until the first logged step, characters per second, and peak memory in bytes."""
    run = folder / f"run-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "charladder", "train", str(folder / text), "--steps", str(steps)]
    command += ["--valid", "1000", "--test", "1000", "--run", str(run), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "CHARLADDER_CACHE": str(folder / "cache")},
    )  # fmt: skip
    metrics = run / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    result = json.loads(process.communicate()[0])
    return {
        "first_step_s": seconds,
        "characters_per_second": result["characters_per_second"],
        "peak_bytes": result["peak_memory_bytes"],
    }
