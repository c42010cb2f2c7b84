"""Is a deep network slow? Compares 64 layers of width 128 with 12 layers of width 320.

Model operations per second of a training step, with the network of `ladder`, one loss, AdamW and context 512. The two
alternate, each in its own process.

    python -m benchmarks depth --rounds 5
"""

import argparse
import statistics
from collections.abc import Sequence

import torch

from benchmarks import peers
from benchmarks.contenders import Contender, alternate
from benchmarks.measure import matrix_rate, report
from benchmarks.peers import Shape
from charladder.training.devices import choose_precision


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks depth", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4, help="windows of 512 characters per step")
    parser.add_argument("--quick", action="store_true", help="two rounds of one window")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    rounds, batch = (2, 1) if options.quick else (options.rounds, options.batch)
    shapes = {
        "12 layers of 320": Shape(12, 320, 64, 864, 512, batch),
        "64 layers of 128": Shape(64, 128, 64, 352, 512, batch),
    }
    contenders = [Contender(name, peers.ours, {"shape": shape}) for name, shape in shapes.items()]
    alternate(contenders, rounds, steps=2)
    limit = matrix_rate(choose_precision("auto", torch.device("cpu")))
    rows, rates, measured = [["", "time per step", "model GFLOP/s", "share of matrix rate", "peak memory"]], [], {}
    for one in contenders:
        if one.absent:
            raise SystemExit(f"{one.name}: {one.absent}")
        seconds = statistics.median(one.seconds)
        rates.append(shapes[one.name].operations / seconds)
        share = rates[-1] / limit
        measured[one.name] = {"step_s": one.seconds, "operations_per_second": rates[-1], "share_of_matrix_rate": share}
        row = f"{seconds:.3f} s", f"{rates[-1] / 1e9:.1f}", f"{share:.2f}", f"{one.peak_bytes / 2**20:,.0f} MiB"
        rows.append([one.name, *row])
    settings = {"rounds": rounds, **{name: vars(shape) for name, shape in shapes.items()}}
    report("is a deep network slow?", {"deep_over_wide": rates[1] / rates[0]}, measured, settings, rows, options.json)
    return 0
