"""How does bfloat16 change bits per character and speed, at an equal number of steps?

Runs with bfloat16 and float32 matrix products alternate, seed by seed, and are scored on the whole validation part.
Differences are paired by seed, with a 95% interval for two or more seeds.

    python -m benchmarks precision --text text8-prefix.xz --valid 250000 --test 253641 --steps 1000 --seeds 5
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import report
from benchmarks.quality import interval, paired


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks precision", description=__doc__)
    parser.add_argument("--text", default="python", help="a corpus name or a file")
    parser.add_argument("--recipe", default="ladder")
    parser.add_argument("--valid", type=float, default=0.02)
    parser.add_argument("--test", type=float, default=0.02)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="2 steps, one seed, a short validation part")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.steps, options.seeds, options.valid, options.test = 2, 1, 4096, 4096
    runs: dict[str, list[dict[str, Any]]] = {"bfloat16": [], "float32": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name, done in runs.items():
                command = [sys.executable, "-m", "charladder", "train", options.text, "--json"]
                command += ["--run", str(Path(folder) / f"{name}-{seed}"), "--recipe", options.recipe]
                command += ["--steps", str(options.steps), "--seed", str(seed), "--precision", name]
                command += ["--valid", str(options.valid), "--test", str(options.test)]
                ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
                done.append(json.loads(ended.stdout))
                print(f"seed {seed}, {name}: {done[-1]['valid_bits_per_character']:.4f}", file=sys.stderr, flush=True)
    bits = {name: [run["valid_bits_per_character"] for run in done] for name, done in runs.items()}
    speed = {name: statistics.median(run["characters_per_second"] for run in done) for name, done in runs.items()}
    cost, half = paired(bits["float32"], bits["bfloat16"])
    rows = [["", "bits per character", "characters/s"]]
    rows += [[name, f"{statistics.mean(bits[name]):.4f}", f"{speed[name]:,.0f}"] for name in runs]
    rows.append(["difference", interval(cost, half), f"{speed['bfloat16'] / speed['float32']:.2f} times"])
    report(
        f"bfloat16 against float32 matrix products, {options.steps} steps",
        {"speed_of_bfloat16": speed["bfloat16"] / speed["float32"]},
        {"runs": runs, "bfloat16_higher_by_bits": {"mean": cost, "95_percent_half_width": half}},
        vars(options),
        rows,
        options.json,
    )
    return 0
