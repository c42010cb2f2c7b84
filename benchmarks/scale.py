"""Does a huge text train in the memory of a small one, and how soon does its first step come?

Two sparse files of the same words, 20 MB and 20 GB, are converted (timed), then trained on in turn, a process each:
seconds from the start of the process to the first logged step, and peak memory at the end, medians of several.

    python -m benchmarks scale --steps 300 --repeats 3
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

SMALL = 20_000_000
WORDS = b"the ladder leans on the wall, and every rung of it is asked what it sees. " * 10_000


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scale", description=__doc__)
    parser.add_argument("--bytes", type=int, default=20_000_000_000, help="size of the huge text")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="2 GB, 20 steps, once")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.bytes, options.steps, options.repeats = 2_000_000_000, 20, 1
    sizes = {"small": SMALL, "huge": options.bytes}
    measured: dict[str, dict[str, Any]] = {name: {"first_step_s": [], "peak_bytes": []} for name in sizes}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for text, size in sizes.items():
            sparse_text(folder / text, size)
            began = time.perf_counter()
            train(folder, text, 1)
            measured[text]["conversion_s"] = time.perf_counter() - began
        for _ in range(options.repeats):
            for text, figures in measured.items():
                seconds, peak = train(folder, text, options.steps)
                figures["first_step_s"].append(seconds)
                figures["peak_bytes"].append(peak)
    first = {text: statistics.median(figures["first_step_s"]) for text, figures in measured.items()}
    peak = {text: statistics.median(figures["peak_bytes"]) for text, figures in measured.items()}
    rows = [["", "bytes", "with conversion", "first step", "peak memory"]]
    for text, figures in measured.items():
        row = f"{figures['conversion_s']:.1f} s", f"{first[text]:.1f} s", f"{peak[text] / 2**20:.0f} MiB"
        rows.append([text, f"{sizes[text]:,}", *row])
    ratios = {
        "first_step_cost": first["huge"] / first["small"],
        "peak_memory_cost": peak["huge"] / peak["small"],
        "ten_seconds_over_first_step": 10 / first["huge"],
    }
    settings = {"bytes": sizes, "steps": options.steps, "repeats": options.repeats, "recipe": "ladder"}
    report("a huge text against a small one", ratios, measured, settings, rows, options.json)
    return 0


def sparse_text(path: Path, size: int) -> None:
    """A file of `size` bytes that holds words in 200 places and at its end, and holes between."""
    with path.open("wb") as file:
        for place in (*range(0, size - len(WORDS), size // 200), size - len(WORDS)):
            file.seek(place)
            file.write(WORDS)


def train(folder: Path, text: str, steps: int) -> tuple[float, int]:
    """Seconds until the first step was logged, and the peak memory of the whole run, in bytes."""
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
    out, _ = process.communicate()
    return seconds, json.loads(out)["peak_memory_bytes"]
