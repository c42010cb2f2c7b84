"""How fast is a generation pass, compared with the limits of this machine?

A network of the `ladder` kind with random weights reads one character of each sequence, all at the same position,
without sampling or drafts. Batch sizes and precisions alternate. Counts the operations of matrices and attention, and
the bytes of weights, keys and values, and compares them with the machine's rates in square float32 products and in a
sum over 256 MB, with the same threads.

    python -m benchmarks passes
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.measure import matrix_rate, report
from charladder.inference.factory import open_runner
from charladder.inference.runner import TokenBatch
from charladder.model import ModelConfig, Transformer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALPHABET = 256


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks passes", description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--attention-heads", type=int, default=3)
    parser.add_argument("--feed-forward", type=int, default=512)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64], help="numbers of sequences")
    parser.add_argument("--place", type=int, help="the position of the characters (default: the middle of the context)")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--quick", action="store_true", help="3 rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.rounds = 3
    place = options.context // 2 if options.place is None else options.place
    settings = ModelConfig(
        options.layers, options.width, options.attention_heads, options.feed_forward, options.context,
        initialisation="normal"
    )  # fmt: skip
    torch.manual_seed(0)
    network = Transformer(settings, ALPHABET).eval()
    runners = {
        (precision, streams): open_runner(network, streams, None, dtype)
        for precision, dtype in DTYPES.items()
        for streams in options.streams
    }
    batches = {
        (precision, streams): TokenBatch(range(streams), [place] * streams, [n % ALPHABET for n in range(streams)])
        for precision, streams in runners
    }
    for key, runner in runners.items():  # fill the caches
        for n in range(place):
            runner.run(TokenBatch(range(key[1]), [n] * key[1], [n % ALPHABET] * key[1]))
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in runners}
    product_limit, read_limit = matrix_rate(), read_rate()
    for _ in range(options.rounds):
        for key, runner in runners.items():
            runner.run(batches[key])  # warms the processor's caches
            began = time.perf_counter()
            runner.run(batches[key])
            seconds[key].append(time.perf_counter() - began)
    D, F, L = options.width, options.feed_forward, options.layers
    weights, cached = L * D * (4 * D + 3 * F) + ALPHABET * D, 2 * L * D * (place + 1)
    header = [
        "",
        "sequences",
        "microseconds per character",
        "GFLOP/s",
        "share of product rate",
        "GB/s",
        "share of read rate",
    ]
    rows, ratios, measured = [header], {}, {}
    for (precision, streams), times in seconds.items():
        median, operations = statistics.median(times), 2 * streams * (weights + cached)
        count = DTYPES[precision].itemsize * (weights + streams * cached)
        of_products, of_reading = operations / median / product_limit, count / median / read_limit
        name = f"{precision}_{streams}_streams"
        ratios |= {f"{name}_of_products": of_products, f"{name}_of_reading": of_reading}
        measured[name] = {"pass_s": median, "operations": operations, "bytes": count}
        rows.append(
            [precision, str(streams), f"{median / streams * 1e6:.1f}", f"{operations / median / 1e9:.1f}",
             f"{of_products:.2f}", f"{count / median / 1e9:.1f}", f"{of_reading:.2f}"]
        )  # fmt: skip
    measured["machine"] = {"products_per_second": product_limit, "bytes_per_second": read_limit}
    settings_used = {name: value for name, value in vars(options).items() if name not in ("json", "quick")}
    report("how fast is a generation pass?", ratios, measured, settings_used | {"place": place}, rows, options.json)
    return 0


def read_rate(count: int = 256 << 20, repeats: int = 8) -> float:
    """Bytes per second that this machine reads from memory with torch's threads, the median of several sums."""
    numbers = torch.from_numpy(np.ones(count // 4, np.float32))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - began)
    return count / statistics.median(seconds)
