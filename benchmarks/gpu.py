"""Which share of a GPU's speed do the paper's networks reach, with all their losses?

T64 and T12 with their own shapes (16 windows of 512, every layer, two targets, dropout): eager, with compiled blocks,
and with CUDA graphs of the blocks. Reports characters per second, model operations per second divided by the device's
rate in matrix products, and how many graphs are compiled over the whole schedule, in which the losses of the layers end
one by one. With --minutes, also trains both, and `ladder` at a size for GPUs, and reports their scores: the last and,
because networks overfit a text of a few million characters, the best.

    python -m benchmarks gpu --text text8-prefix.xz --valid 250000 --test 253641 --minutes 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, alternate
from benchmarks.measure import matrix_rate, report
from benchmarks.peers import fresh_trainer
from charladder.recipe import RecipeFields, load_recipe_fields
from charladder.training import Trainer
from charladder.training.devices import choose_device, choose_precision
from charladder.training.metrics import is_validation, read_metrics

STEPS = 1_000_000
LADDER_OPTIONS = ["--layers", "12", "--width", "768", "--context", "512", "--batch", "64"]
SMALL: RecipeFields = {
    "model.layers": 3,
    "model.width": 32,
    "model.feed_forward": 64,
    "model.context": 32,
    "training.batch": 2,
}
SMALL_OPTIONS = ["--layers", "3", "--width", "32", "--model.feed_forward", "64", "--context", "32", "--batch", "2"]


def make_trainer(recipe: str, device: str, fields: RecipeFields) -> Trainer:
    raw = load_recipe_fields(recipe) | {
        "training.steps": STEPS,
        "training.diagnose_every": 0,
        "training.micro_batch": 0,
    }
    return fresh_trainer(raw | {"training.device": device} | fields)


def make_step(recipe: str, device: str, fields: RecipeFields) -> Callable[[], object]:
    """A function that runs the first training step of a run, in which all terms are active. It has already run twice:
    CUDA graphs are captured in the second step."""
    trainer = make_trainer(recipe, device, fields)

    def step() -> None:
        trainer.counters.step = 0
        trainer.step()

    for _ in range(2):
        step()
    if trainer.step_graph is not None and trainer.step_graph.failure:
        raise RuntimeError(f"no CUDA graph: {trainer.step_graph.failure}")
    return step


def operations(trainer: Trainer) -> float:
    """Model operations of one step with all terms active: two for each weight and character, times three for forward
    and backward passes; causal attention; no recomputation, norms, dropout or optimizer."""
    network, model = trainer.network, trainer.network.settings
    matrices = [*network.blocks.parameters(), *network.output.parameters(), *trainer.objective.heads.parameters()]
    weights = sum(matrix.numel() for matrix in matrices if matrix.ndim == 2)
    attention = model.layers * 2 * model.width * (model.context + 1)
    return 3 * trainer.settings.batch * model.context * (2 * weights + attention)


def graphs_over_the_schedule(recipe: str, device: str, fields: RecipeFields) -> int:
    """How many graphs are compiled over the whole schedule, with one step after each change of the active terms."""
    import torch
    from torch._dynamo.utils import counters

    torch.compiler.reset()  # forgets blocks of the same shape
    trainer = make_trainer(recipe, device, fields | {"training.compile": "blocks"})
    counters.clear()
    phases = 2 * trainer.network.settings.layers
    for phase in range(phases):
        trainer.counters.step = int((phase + 0.5) / phases * STEPS)
        trainer.step()
    return counters["stats"]["unique_graphs"]


def train_for_minutes(options: argparse.Namespace, recipe: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Trains for --minutes with the command line; returns its result and the best validation score."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / recipe
        command = [sys.executable, "-m", "charladder", "train", options.text, "--run", str(run), "--json"]
        command += ["--recipe", recipe, "--minutes", str(options.minutes), "--device", options.device, *arguments]
        command += ["--valid", str(options.valid), "--test", str(options.test), "--training.validations", "20"]
        command += ["--score", "whole"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        scores = [line["bits_per_character"] for line in read_metrics(run / "metrics.jsonl") if is_validation(line)]
        return {**json.loads(done.stdout), "best_on_a_stretch": min(scores, default=None)}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--micro-batch", type=int, default=0, help="windows per forward pass (0: all)")
    parser.add_argument("--minutes", type=float, default=0.0, help="also train each recipe for this long")
    parser.add_argument("--text", default="python", help="a corpus name or a file, to train on")
    parser.add_argument("--valid", type=float, default=0.02)
    parser.add_argument("--test", type=float, default=0.02)
    parser.add_argument("--quick", action="store_true", help="three layers of 32, one round of one step")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    device = choose_device(options.device)
    fields = {"training.micro_batch": options.micro_batch} | (SMALL if options.quick else {})
    rounds, steps = (1, 1) if options.quick else (options.rounds, 10)
    limit = matrix_rate(choose_precision("auto", device), size=8192 if device.type == "cuda" else 1024, device=device)
    rows = [["", "characters/s", "time per step", "first three steps", "peak memory", "share of matrix rate"]]
    ratios: dict[str, float] = {}
    shapes: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    for recipe in ("t64", "t12"):
        shape = make_trainer(recipe, "cpu", fields)
        step_operations, characters = operations(shape), shape.settings.batch * shape.windows.length
        shapes[recipe] = {"batch": shape.settings.batch, **vars(shape.network.settings)}
        del shape
        contenders = [
            Contender(
                name, make_step, {"recipe": recipe, "device": options.device, "fields": fields | more}, str(device)
            )
            for name, more in (
                (recipe, {"training.compile": "never"}),
                (f"{recipe}, compiled", {"training.compile": "blocks"}),
                *([(f"{recipe}, CUDA graphs", {"training.compile": "graphs"})] if device.type == "cuda" else []),
            )
        ]
        alternate(contenders, rounds, steps)
        for one in contenders:
            if one.absent:  # for example, memory is short
                rows.append([one.name, "absent", one.absent, "", "", ""])
                measured[one.name] = {"absent": one.absent}
                continue
            seconds = statistics.median(one.seconds)
            ratios[f"{one.name}, share of matrix rate"] = share = step_operations / seconds / limit
            measured[one.name] = {
                "step_s": one.seconds, "first_step_s": one.first_step, "peak_bytes": one.peak_bytes,
                "characters_per_second": characters / seconds,
            }  # fmt: skip
            figures = (
                f"{seconds:.3f} s",
                f"{one.first_step:.1f} s",
                f"{one.peak_bytes / 2**20:,.0f} MiB",
                f"{share:.2f}",
            )
            rows.append([one.name, f"{characters / seconds:,.0f}", *figures])
        graphs = graphs_over_the_schedule(recipe, options.device, fields)
        measured[f"{recipe}, graphs compiled over the schedule"] = graphs
        rows.append([f"{recipe}, graphs compiled", str(graphs), "", "", "", ""])
    if options.minutes:
        small = SMALL_OPTIONS if options.quick else []
        for recipe, arguments in (("t64", small), ("t12", small), ("ladder", small or LADDER_OPTIONS)):
            one = measured[f"{recipe}, {options.minutes:g} minutes"] = train_for_minutes(options, recipe, arguments)
            bits = f"{one['valid_bits_per_character']:.4f} bits"
            best = "" if one["best_on_a_stretch"] is None else f"{one['best_on_a_stretch']:.4f} at best"
            speed = f"{one['characters_per_second']:,.0f}"
            rows.append([f"{recipe}, {options.minutes:g} minutes", speed, bits, best, "", ""])
    settings = {**vars(options), "matrix_rate": limit, **shapes}
    report("how well do the paper's networks use this device?", ratios, measured, settings, rows, options.json)
    return 0
