"""How fast is a pass of generation, against what this machine multiplies and reads?

A network of the `ladder` kind with random weights reads one character of each of so many streams, each at the same
place; nothing is chosen, nothing drafted. Sizes and precisions are alternated. Operations are those of its matrices
and of attention; bytes those of keys and values, and of weights once for all. Each is set against the machine's own
rate, of square float32 products and of a sum over 256 MB, on the same threads: what a pass would cost if it did
nothing but the one or the other.

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

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALPHABET = 256


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks passes", description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--attention-heads", type=int, default=3)
    parser.add_argument("--feed-forward", type=int, default=512)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--place", type=int, help="of the characters that are read (default: the middle)")
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
    readers = {
        (precision, streams): open_runner(network, streams, None, dtype)
        for precision, dtype in KINDS.items()
        for streams in options.streams
    }
    passes = {
        (precision, streams): TokenBatch(range(streams), [place] * streams, [n % ALPHABET for n in range(streams)])
        for precision, streams in readers
    }
    for key, reader in readers.items():  # what they hold before
        for n in range(place):
            reader.run(TokenBatch(range(key[1]), [n] * key[1], [n % ALPHABET] * key[1]))
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in readers}
    multiplied, read = matrix_rate(), reading_rate()
    for _ in range(options.rounds):
        for key, reader in readers.items():
            reader.run(passes[key])  # what a cache keeps from one pass to the next is there for the second
            began = time.perf_counter()
            reader.run(passes[key])
            seconds[key].append(time.perf_counter() - began)
    D, F, L = options.width, options.feed_forward, options.layers
    weights, held = L * D * (4 * D + 3 * F) + ALPHABET * D, 2 * L * D * (place + 1)
    header = ["", "streams", "microseconds a character", "GFLOP/s", "of products", "GB/s", "of reading"]
    rows, ratios, measured = [header], {}, {}
    for (precision, streams), times in seconds.items():
        median, operations = statistics.median(times), 2 * streams * (weights + held)
        count = KINDS[precision].itemsize * (weights + streams * held)
        of_products, of_reading = operations / median / multiplied, count / median / read
        name = f"{precision}_{streams}_streams"
        ratios |= {f"{name}_of_products": of_products, f"{name}_of_reading": of_reading}
        measured[name] = {"pass_s": median, "operations": operations, "bytes": count}
        rows.append(
            [precision, str(streams), f"{median / streams * 1e6:.1f}", f"{operations / median / 1e9:.1f}",
             f"{of_products:.2f}", f"{count / median / 1e9:.1f}", f"{of_reading:.2f}"]
        )  # fmt: skip
    measured["machine"] = {"products_per_second": multiplied, "bytes_per_second": read}
    asked = {name: value for name, value in vars(options).items() if name not in ("json", "quick")}
    report("a pass of generation", ratios, measured, asked | {"place": place}, rows, options.json)
    return 0


def reading_rate(count: int = 256 << 20, repeats: int = 8) -> float:
    """Bytes a second that this machine reads from memory, on torch's threads: median of several sums."""
    numbers = torch.from_numpy(np.ones(count // 4, np.float32))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        numbers.sum()
        seconds.append(time.perf_counter() - began)
    return count / statistics.median(seconds)
