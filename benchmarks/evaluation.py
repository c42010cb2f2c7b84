"""How do bits per character and evaluation time depend on the stride?

Scores a run (or a new one of `ladder`) on the start of its validation part with strides C, C/2, C/8 and 1. A short
stride gives every character a long context but reads the text many times, so the number of characters is limited.

    python -m benchmarks evaluation --run runs/ladder-1 --limit 8192
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.measure import report
from charladder.evaluation import evaluate
from charladder.run import open_data, open_run, split_corpus


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks evaluation", description=__doc__)
    parser.add_argument("--run", help="a trained run (default: trains a new one)")
    parser.add_argument("--minutes", type=float, default=2, help="training time of the new run")
    parser.add_argument("--limit", type=int, default=8192, help="characters to score")
    parser.add_argument("--quick", action="store_true", help="three seconds of training, 256 characters")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.minutes, options.limit = 0.05, 256
    with tempfile.TemporaryDirectory() as folder:
        if options.run is None:
            options.run = str(Path(folder) / "run")
            command = [sys.executable, "-m", "charladder", "train", "python", "--run", options.run]
            command += ["--minutes", str(options.minutes), "--score", "none"]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        run = open_run(Path(options.run))
        corpus = open_data(run)
        network, context = run.load_network(), run.recipe.model.context
        begin = split_corpus(run.recipe, corpus).valid[0]
        part = begin, begin + options.limit
        rows, measured = [["stride", "bits per character", "seconds", "characters/s"]], {}
        for name, stride in {"C": context, "C/2": context // 2, "C/8": max(1, context // 8), "1": 1}.items():
            with torch.inference_mode():
                score = evaluate(
                    lambda tokens, keep: network(tokens, logits_to_keep=keep).logits_BTV,
                    corpus.ids_N, part, context, stride, run.alphabet.size,
                )  # fmt: skip
            measured[name] = {
                "stride": stride, "bits_per_character": score.bits_per_character, "seconds": score.seconds
            }  # fmt: skip
            speed = f"{score.characters / score.seconds:,.0f}"
            rows.append([f"{name} = {stride}", f"{score.bits_per_character:.4f}", f"{score.seconds:.1f}", speed])
    ratios = {f"time_cost_{name}": one["seconds"] / measured["C"]["seconds"] for name, one in measured.items()}
    settings = {"context": context, "characters": options.limit, "corpus_sha256": corpus.sha256, "run": options.run}
    report("bits per character by stride", ratios, measured, settings, rows, options.json)
    return 0
