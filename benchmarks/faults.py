"""Is anything lost? Faults that are made on purpose, and whether everything is there afterwards.

kills: runs that are killed at random moments, a third of them while saving, and resumed.
damage: every file of a checkpoint with flipped bytes, cut short, and swapped with another run's.
fuzz: every reader of outside bytes with a great many damaged and invented inputs.
soak: memory and file descriptors of a long run.

    python -m benchmarks faults kills damage fuzz            (in full; half an hour or so)
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
    parser.add_argument("scripts", nargs="*", choices=[*SCRIPTS, []], help="all of them, if none is named")
    parser.add_argument("--runs", type=int, default=200, help="of kills")
    parser.add_argument("--flips", type=int, default=500, help="of damage, a file")
    parser.add_argument("--cuts", type=int, default=100, help="of damage, a file")
    parser.add_argument("--inputs", type=int, default=100_000, help="of fuzz, over all readers")
    parser.add_argument("--minutes", type=float, default=60.0, help="of soak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="a little of each")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.runs, options.flips, options.cuts, options.inputs, options.minutes = 6, 20, 10, 600, 0.4
    measured: dict[str, Any] = {}
    # In this order whatever was named: kills forks, and a process that has started threads before does not come back.
    for name in [script for script in SCRIPTS if script in (options.scripts or SCRIPTS)]:
        measured[name] = importlib.import_module(f"benchmarks.fault_injection.{name}").run(options)
    rows = [["", "found"]]
    rows += [
        [f"{name}: {what}", str(value)]
        for name, found in measured.items()
        for what, value in found.items()
        if what != "samples"
    ]
    bad = {
        f"{name}: {what}": v for name, found in measured.items() for what, v in found.items() if "LOST" in what and v
    }
    report("what is lost", {}, measured, vars(options), rows, options.json)
    return 1 if bad else 0
