"""How fast is `charladder score` on a log of lines of about 100 characters, and does its memory depend on the size?

Writes logs of 5 and 50 MB (seeded), and scores each line by line in a process of its own, with a new network of the
given shape. Reports characters per second, also of processor time (with the start of the process), and peak memory.
`evaluate` on the first log is the peer: the same network on the same characters.

    python -m benchmarks scoring --layers 2 --width 16 --context 128
    python -m benchmarks scoring --bytes 1000000 --layers 4 --width 128 --context 128
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import report


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scoring", description=__doc__)
    parser.add_argument("--bytes", type=int, nargs="+", default=[5_000_000, 50_000_000])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0, help="of the logs")
    parser.add_argument("--quick", action="store_true", help="logs of 20 kB and 200 kB")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.bytes = [20_000, 200_000]
    rows = [["", "lines", "characters/s", "per CPU second", "peak memory"]]
    measured: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in options.bytes:
            write_log(folder / f"{size}.log", size, options.seed)
        shape = ["--layers", options.layers, "--width", options.width, "--context", options.context]
        first = str(folder / f"{options.bytes[0]}.log")
        run_command(folder, "train", first, *map(str, shape), "--steps", "1", "--score", "none", "--run", "run")
        for size in options.bytes:
            log = str(folder / f"{size}.log")
            figures = run_command(folder, "score", "run", log, "--output", f"{size}.jsonl", "--json")
            measured[f"{size:,} bytes"] = figures
        measured["evaluate"] = run_command(folder, "evaluate", "run", first, "--json")
    for name, figures in measured.items():
        figures["characters_per_second"] = figures["characters"] / figures["seconds"]
        speeds = f"{figures['characters_per_second']:,.0f}", f"{figures['characters'] / figures['cpu_s']:,.0f}"
        rows.append([name, f"{figures.get('lines', 0):,}", *speeds, f"{figures['peak_bytes'] / 2**20:.0f} MiB"])
    small, *_, large = [measured[f"{size:,} bytes"] for size in (options.bytes[0], *options.bytes)]
    ratios = {
        "peak_memory_cost": large["peak_bytes"] / small["peak_bytes"],
        "characters_per_second_of_evaluate": small["characters_per_second"]
        / measured["evaluate"]["characters_per_second"],
    }
    settings = {name: getattr(options, name) for name in ("bytes", "layers", "width", "context", "seed")}
    report("how fast are lines scored, and in which memory?", ratios, measured, settings, rows, options.json)
    return 0


def write_log(path: Path, size: int, seed: int) -> None:
    """Writes at least `size` bytes of lines of 80 to 120 characters."""
    draw, written, second = random.Random(seed), 0, 0
    paths = [f"/{'/'.join(draw.choices(('shop', 'item', 'cart', 'user', 'search', 'static'), k=3))}" for _ in range(50)]
    with path.open("w") as file:
        while written < size:
            second += draw.randrange(3)
            clock = f"{second // 3600 % 24:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
            line = f"2026-01-01T{clock} host{draw.randrange(8)} GET {draw.choice(paths)}?id={draw.randrange(10**6)} "
            line += f"{draw.choices((200, 304, 404, 500), (90, 6, 3, 1))[0]} {draw.randrange(10**5)} bytes in "
            written += file.write(f"{line}{draw.expovariate(0.05):.1f} ms\n")


def run_command(folder: Path, *arguments: str) -> dict[str, Any]:
    """Runs a command of charladder. Returns what it prints with --json, its seconds and its peak memory."""
    code = (
        "import json, resource, sys, time\n"
        "from charladder.cli.main import main\n"
        "code = main(sys.argv[1:])\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "print(json.dumps({'cpu_s': time.process_time(), 'peak_bytes': peak}))\n"
        "sys.exit(code)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        check=True,
    )  # fmt: skip
    objects = [json.loads(line) for line in process.stdout.splitlines() if line.startswith(b"{")]
    return {key: value for one in objects for key, value in one.items()}
