"""How fast is a training step, against peers of the same architecture?

12 layers of width 256 (head size 64, SwiGLU of 672), context 512, batch 16, byte alphabet, AdamW; bfloat16 if the
processor supports it. Peers: Hugging Face's Qwen3, x-transformers, and the network of benchmarks/reference.py, each
eager and compiled; the first step, which includes compilation, is reported separately. All alternate, each in its own
process. The last column is model operations per second divided by the machine's rate in square matrix products (1024).
The JSON also has the share of the rate in the product for queries, keys and values, which is higher on processors with
matrix units.

    python -m benchmarks throughput --rounds 5
"""

import argparse
import statistics
from collections.abc import Sequence

import torch

from benchmarks import peers
from benchmarks.contenders import Contender, alternate
from benchmarks.measure import matrix_rate, product_rate, report
from benchmarks.peers import Shape
from charladder.training.devices import choose_precision

SHAPE = Shape(layers=12, width=256, head=64, feed_forward=672, context=512, batch=16)
QUICK = Shape(layers=2, width=128, head=64, feed_forward=352, context=128, batch=8)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="contenders, by name (default: all)")
    parser.add_argument("--quick", action="store_true", help="2 layers of width 128, nothing compiled")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    shape = QUICK if options.quick else SHAPE
    contenders = [Contender("charladder", peers.ours, {"shape": shape})]
    for compiled in (False,) if options.quick else (False, True):
        for make in (peers.qwen3, peers.x_transformers, peers.reference):
            name = f"{make.__name__}, compiled" if compiled else make.__name__
            contenders.append(Contender(name, make, {"shape": shape, "compile": compiled}))
    contenders = [one for one in contenders if options.only is None or one.name in options.only]
    alternate(contenders, options.rounds)
    precision = choose_precision("auto", torch.device("cpu"))
    limit = matrix_rate(precision)
    qkv_limit = product_rate(precision, shape.batch * shape.context, shape.width, 3 * shape.width)
    rows = [["", "characters/s", "time per step", "first step", "peak memory", "share of matrix rate"]]
    measured, rates = {}, {}
    for one in contenders:
        if one.absent:
            rows.append([one.name, "absent", one.absent, "", "", ""])
            measured[one.name] = {"absent": one.absent}
            continue
        seconds = statistics.median(one.seconds)
        rates[one.name] = shape.batch * shape.context / seconds
        share = shape.operations / seconds / limit
        measured[one.name] = {
            "characters_per_second": rates[one.name], "step_s": one.seconds, "first_step_s": one.first_step,
            "peak_bytes": one.peak_bytes, "share_of_matrix_rate": share,
        }  # fmt: skip
        figures = f"{seconds:.3f} s", f"{one.first_step:.1f} s", f"{one.peak_bytes / 2**20:,.0f} MiB", f"{share:.2f}"
        rows.append([one.name, f"{rates[one.name]:,.0f}", *figures])
    ratios = {}
    if "charladder" in rates:
        ratios["share_of_matrix_rate"] = measured["charladder"]["share_of_matrix_rate"]
        ratios["share_of_the_rate_of_queries_keys_values"] = ratios["share_of_matrix_rate"] * limit / qkv_limit
        others = {name: rate for name, rate in rates.items() if name != "charladder"}
        ratios |= {f"over {name}": rates["charladder"] / rate for name, rate in others.items()}
        if others:
            ratios["over_best_peer"] = rates["charladder"] / max(others.values())
            rows.append(["charladder over the best peer", f"{ratios['over_best_peer']:.2f}", "", "", "", ""])
    settings = {
        **vars(shape),
        "precision": str(precision),
        "matrix_rate": limit,
        "rate_of_queries_keys_values": qkv_limit,
        "rounds": options.rounds,
    }
    report("how fast is a training step?", ratios, measured, settings, rows, options.json)
    return 0
