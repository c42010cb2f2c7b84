"""What do all auxiliary losses of the paper's T64 cost, compared with the last layer alone?

The shape of T64 (64 layers of width 512, context 512, 256 symbols) and its optimizer, with two windows per step and
without dropout. Three contenders alternate: only the next character at the last layer; all 64 layers with two targets
each (as in the first steps of a run); and the mean of four points spread evenly over the paper's schedule. Measures
time and peak memory. By the number of operations, all losses cost 1.083 times as much.

    python -m benchmarks auxiliary_cost --rounds 5
"""

import argparse
import itertools
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.contenders import Contender, alternate
from benchmarks.measure import report
from benchmarks.peers import fresh_trainer
from charladder.recipe import load_recipe_fields

STEPS = 1_000_000
QUICK_SHAPE = {
    "model.layers": 3, "model.width": 64, "model.attention_heads": 2, "model.feed_forward": 128, "model.context": 64,
}  # fmt: skip
PROGRESS_POINTS = [(n + 0.5) / 4 for n in range(4)]


def t64_step(progress_points: Sequence[float], fields: dict[str, Any]) -> Callable[[], object]:
    """A function that runs a training step of T64; each call uses the next of these progress values, cyclically."""
    raw = load_recipe_fields("t64") | {
        "training.batch": 2, "training.micro_batch": 0, "training.steps": STEPS, "training.diagnose_every": 0,
        "model.dropout": 0.0,
    }  # fmt: skip
    trainer = fresh_trainer(raw | fields)
    progress = itertools.cycle(progress_points)

    def step() -> None:
        trainer.counters.step = int(next(progress) * STEPS)
        trainer.step()

    return step


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks auxiliary_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="three layers of 64, one round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    shape = QUICK_SHAPE if options.quick else {}
    rounds = 1 if options.quick else options.rounds
    last = {"objective.intermediate": False, "objective.targets": 1}
    contenders = [
        Contender("the last layer alone", t64_step, {"progress_points": [0.0], "fields": shape | last}),
        Contender("all layers, two targets", t64_step, {"progress_points": [0.0], "fields": shape}),
        Contender("averaged over the schedule", t64_step, {"progress_points": PROGRESS_POINTS, "fields": shape}),
    ]
    alternate(contenders, rounds, steps=len(PROGRESS_POINTS))
    rows, medians = [["", "time per step", "ratio", "peak memory", "ratio"]], []
    for one in contenders:
        if one.absent:
            raise SystemExit(f"{one.name}: {one.absent}")
        medians.append(statistics.median(one.seconds))
        costs = medians[-1] / medians[0], one.peak_bytes / contenders[0].peak_bytes
        row = f"{medians[-1]:.3f} s", f"{costs[0]:.3f}", f"{one.peak_bytes / 2**20:,.0f} MiB", f"{costs[1]:.3f}"
        rows.append([one.name, *row])
    ratios = {
        "time_cost_all": medians[1] / medians[0],
        "time_cost_averaged": medians[2] / medians[0],
        "peak_memory_cost": contenders[1].peak_bytes / contenders[0].peak_bytes,
    }
    measured = {one.name: {"step_s": one.seconds, "peak_bytes": one.peak_bytes} for one in contenders}
    settings = {"rounds": rounds, "places": PROGRESS_POINTS, "batch": 2, "dropout": 0.0, **shape}
    report("what all auxiliary losses of T64 cost", ratios, measured, settings, rows, options.json)
    return 0
