"""How well do the paper's networks use a GPU, with all their losses?

T64 and T12 at their own shapes (16 windows of 512, every layer, two targets, dropout), as they are, compiled by block,
and with CUDA graphs of the blocks: characters per second, and model operations per second over the device's own rate of
matrix products. How many graphs are compiled while all layers fall silent one by one. Then, with --minutes, what each
learns in that time; so does `ladder` at a GPU's size. A text of a few million characters is soon learned by heart, so
the best score on valid text is reported beside the last.

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
from charladder.recipe import Raw, read_raw
from charladder.training import Trainer
from charladder.training.devices import choose_device, choose_precision
from charladder.training.metrics import is_validation, read_metrics

STEPS = 1_000_000
LADDER = ["--layers", "12", "--width", "768", "--context", "512", "--batch", "64"]
SMALL: Raw = {"model.layers": 3, "model.width": 32, "model.feed_forward": 64, "model.context": 32, "training.batch": 2}
SMALL_WORDS = ["--layers", "3", "--width", "32", "--model.feed_forward", "64", "--context", "32", "--batch", "2"]


def trainer(recipe: str, device: str, fields: Raw) -> Trainer:
    raw = read_raw(recipe) | {"training.steps": STEPS, "training.diagnose_every": 0, "training.micro_batch": 0}
    return fresh_trainer(raw | {"training.device": device} | fields)


def step_of(recipe: str, device: str, fields: Raw) -> Callable[[], object]:
    """A training step at the begin of a run, where all terms are active. Two have been taken: where steps are replayed,
    the second is recorded."""
    one = trainer(recipe, device, fields)

    def step() -> None:
        one.clock.step = 0
        one.step()

    for _ in range(2):
        step()
    if one.recorder is not None and one.recorder.failed:
        raise RuntimeError(f"no CUDA graph: {one.recorder.failed}")
    return step


def operations(one: Trainer) -> float:
    """Model operations of one step with all terms active: two for each multiplication of weights, three passes;
    attention counted where it is causal; nothing for recomputation, norms, dropout or the optimizer."""
    model = one.network.settings
    matrices = [*one.network.blocks.parameters(), *one.network.output.parameters(), *one.objective.heads.parameters()]
    weights = sum(matrix.numel() for matrix in matrices if matrix.ndim == 2)
    attention = model.layers * 2 * model.width * (model.context + 1)
    return 3 * one.settings.batch * model.context * (2 * weights + attention)


def graphs_over_the_schedule(recipe: str, device: str, fields: Raw) -> int:
    """How many graphs are compiled while a run goes through its whole schedule, one step at each change."""
    import torch
    from torch._dynamo.utils import counters

    torch.compiler.reset()  # blocks of the same shape may have been compiled before
    one = trainer(recipe, device, fields | {"training.compile": "blocks"})
    counters.clear()
    places = 2 * one.network.settings.layers
    for place in range(places):
        one.clock.step = int((place + 0.5) / places * STEPS)
        one.step()
    return counters["stats"]["unique_graphs"]


def learned(options: argparse.Namespace, recipe: str, words: Sequence[str]) -> dict[str, Any]:
    """A run of so many minutes through the command line: its last score and the best on the way, bits per character."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / recipe
        command = [sys.executable, "-m", "charladder", "train", options.text, "--run", str(run), "--json"]
        command += ["--recipe", recipe, "--minutes", str(options.minutes), "--device", options.device, *words]
        command += ["--valid", str(options.valid), "--test", str(options.test), "--training.validations", "20"]
        command += ["--score", "whole"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        parts = [line["bits_per_character"] for line in read_metrics(run / "metrics.jsonl") if is_validation(line)]
        return {**json.loads(done.stdout), "best_on_a_stretch": min(parts, default=None)}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--micro-batch", type=int, default=0, help="windows at once, where memory is short")
    parser.add_argument("--minutes", type=float, default=0.0, help="train each recipe so long too")
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
    rows = [["", "characters/s", "a step", "until the third", "peak memory", "of matrix rate"]]
    ratios: dict[str, float] = {}
    shapes: dict[str, Any] = {}
    measured: dict[str, Any] = {}
    for recipe in ("t64", "t12"):
        shape = trainer(recipe, "cpu", fields)
        work, characters = operations(shape), shape.settings.batch * shape.windows.length
        shapes[recipe] = {"batch": shape.settings.batch, **vars(shape.network.settings)}
        del shape
        contenders = [
            Contender(name, step_of, {"recipe": recipe, "device": options.device, "fields": fields | more}, str(device))
            for name, more in (
                (recipe, {"training.compile": "never"}),
                (f"{recipe}, compiled", {"training.compile": "blocks"}),
                *([(f"{recipe}, CUDA graphs", {"training.compile": "graphs"})] if device.type == "cuda" else []),
            )
        ]
        alternate(contenders, rounds, steps)
        for one in contenders:
            if one.absent:  # memory may be short for one of them
                rows.append([one.name, "absent", one.absent, "", "", ""])
                measured[one.name] = {"absent": one.absent}
                continue
            seconds = statistics.median(one.seconds)
            ratios[f"{one.name}, share of matrix rate"] = share = work / seconds / limit
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
        small = SMALL_WORDS if options.quick else []
        for recipe, words in (("t64", small), ("t12", small), ("ladder", small or LADDER)):
            one = measured[f"{recipe}, {options.minutes:g} minutes"] = learned(options, recipe, words)
            bits = f"{one['valid_bits_per_character']:.4f} bits"
            best = "" if one["best_on_a_stretch"] is None else f"{one['best_on_a_stretch']:.4f} at best"
            speed = f"{one['characters_per_second']:,.0f}"
            rows.append([f"{recipe}, {options.minutes:g} minutes", speed, bits, best, "", ""])
    settings = {**vars(options), "matrix_rate": limit, **shapes}
    report("the paper's networks on this device", ratios, measured, settings, rows, options.json)
    return 0
