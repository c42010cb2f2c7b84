"""Is data lost after kills, damaged files, invalid input or a long run? Injects these faults and checks the results.

kills: kills runs at random moments, a third of them while saving, and resumes them.
damage: flips bytes of every file of a checkpoint, truncates it, and swaps it with the file of another run.
fuzz: gives damaged and generated inputs to every reader of external data.
soak: measures memory and file descriptors of a long run.

    python -m benchmarks faults kills damage fuzz            (takes about half an hour)
    python -m benchmarks faults soak --minutes 60
"""

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from benchmarks.measure import report

SCRIPTS = "kills", "damage", "fuzz", "soak"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scripts", nargs="*", choices=[*SCRIPTS, []], help="default: all")
    parser.add_argument("--runs", type=int, default=200, help="kills: number of runs")
    parser.add_argument("--flips", type=int, default=500, help="damage: per file")
    parser.add_argument("--cuts", type=int, default=100, help="damage: truncations per file")
    parser.add_argument("--inputs", type=int, default=100_000, help="fuzz: number, over all readers")
    parser.add_argument("--minutes", type=float, default=60.0, help="soak: duration")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="few repetitions of each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.runs, options.flips, options.cuts, options.inputs, options.minutes = 6, 20, 10, 600, 0.4
    measured: dict[str, Any] = {}
    # Always in this order: kills forks the process, which can deadlock after the others have started threads.
    for name in [script for script in SCRIPTS if script in (options.scripts or SCRIPTS)]:
        measured[name] = importlib.import_module(f"benchmarks.fault_injection.{name}").run(options)
    rows = [["", "count"]]
    rows += [
        [f"{name}: {what}", str(value)]
        for name, counts in measured.items()
        for what, value in counts.items()
        if what != "samples"
    ]
    bad = {
        f"{name}: {what}": v for name, counts in measured.items() for what, v in counts.items() if "LOST" in what and v
    }
    report("is data lost?", {}, measured, vars(options), rows, options.json)
    return 1 if bad else 0
