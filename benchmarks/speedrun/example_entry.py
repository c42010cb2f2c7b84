"""The smallest entry of the speedrun, as an example of the two commands: how often each byte follows each other one.

python benchmarks/speedrun/example_entry.py train TEXT SECONDS SEED OUT
python benchmarks/speedrun/example_entry.py predict TEXT BEGIN END OUT PREDICTIONS
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

SYMBOLS = 256


def train(text: str, seconds: str, seed: str, out: str) -> None:
    """Counts pairs. It needs neither all of its seconds nor the seed."""
    ids_N = np.fromfile(text, np.uint8).astype(np.int64)
    pairs = np.bincount(ids_N[:-1] * SYMBOLS + ids_N[1:], minlength=SYMBOLS**2).reshape(SYMBOLS, SYMBOLS)
    save_file({"pairs": pairs}, Path(out) / "pairs.safetensors")


def predict(text: str, begin: str, end: str, out: str, predictions: str) -> None:
    """Writes a row for each of the characters text[begin:end], which depends on the characters before it only."""
    pairs = load_file(Path(out) / "pairs.safetensors")["pairs"] + 0.01
    log_probabilities = np.log(pairs / pairs.sum(1, keepdims=True)).astype(np.float32)
    ids_N = np.fromfile(text, np.uint8)
    rows = log_probabilities[ids_N[int(begin) - 1 : int(end) - 1]]
    save_file({"log_probabilities": rows}, predictions)


if __name__ == "__main__":
    {"train": train, "predict": predict}[sys.argv[1]](*sys.argv[2:])
