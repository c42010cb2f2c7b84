"""Bits per character after equal seconds (or fewer for us): a recipe against benchmarks/reference.py.

The two alternate, seed by seed, on the same training text; both are scored by the same evaluation, at stride C/2 on
the whole valid part, outside the measured time. Differences are paired by seed, with a 95% interval when there are
at least two.

    python -m benchmarks quality --text text8-prefix.xz --valid 250000 --test 253641 --seconds 300 --seeds 5
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import reference
from benchmarks.measure import report
from charladder.evaluation import evaluate
from charladder.text import Corpus, open_corpus, split

T95 = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # Student's t by degrees of freedom


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality", description=__doc__)
    parser.add_argument("--text", default="python", help="a corpus name or a file")
    parser.add_argument(
        "--valid", type=float, default=0.02, help="characters or fraction held out before the test part"
    )
    parser.add_argument("--test", type=float, default=0.02, help="characters or fraction held out at the end")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--ours-seconds", type=float, help="for us, where that is not the same")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipe", default="ladder")
    parser.add_argument("--quick", action="store_true", help="ten seconds each, a stretch of the valid part")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds, options.ours_seconds, options.seeds = 10.0, None, 1
    options.ours_seconds = options.ours_seconds or options.seconds
    corpus = open_corpus(options.text)
    parts = split(len(corpus.ids_N), options.valid, options.test)
    valid = (parts.valid[0], parts.valid[0] + 16_384) if options.quick else parts.valid
    runs: dict[str, list[dict[str, Any]]] = {"charladder": [], "reference": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            runs["charladder"].append(ours(options, corpus, valid, seed, Path(folder)))
            runs["reference"].append(theirs(options, corpus, parts.train[1], valid, seed, Path(folder)))
            for name, done in runs.items():
                print(f"seed {seed} {name}: {done[-1]['bits_per_character']:.4f}", file=sys.stderr, flush=True)
    bits = {name: [run["bits_per_character"] for run in done] for name, done in runs.items()}
    lower = [b - a for a, b in zip(bits["charladder"], bits["reference"], strict=True)]
    mean = statistics.mean(lower)
    half = T95[len(lower) - 1] * statistics.stdev(lower) / math.sqrt(len(lower)) if 1 < len(lower) <= len(T95) else None
    interval = f"{mean:.4f} +- {half:.4f} (95%)" if half is not None else f"{mean:.4f} (one seed: no interval)"
    rows = [["", "bits per character", "characters/s", "steps"]]
    for name, done in runs.items():
        columns = [[run[key] for run in done] for key in ("bits_per_character", "characters_per_second", "steps")]
        rows.append([name, *(f"{statistics.mean(c):,.{d}f}" for c, d in zip(columns, (4, 0, 0), strict=True))])
    rows.append(["lower by", interval, "", ""])
    report(
        f"bits per character on valid text after {options.seconds:g} s (ours: {options.ours_seconds:g} s)",
        {"reference_bits_over_ours": statistics.mean(bits["reference"]) / statistics.mean(bits["charladder"])},
        {"runs": runs, "lower_by_bits": mean, "lower_by_95_percent_half_width": half},
        {**vars(options), "corpus_sha256": corpus.sha256, "valid": valid, "train": parts.train, "stride": "C/2"},
        rows,
        options.json,
    )
    return 0


def ours(
    options: argparse.Namespace, corpus: Corpus, valid: tuple[int, int], seed: int, folder: Path
) -> dict[str, Any]:
    run = folder / f"run-{seed}"
    command = [sys.executable, "-m", "charladder", "train", corpus.name, "--run", str(run), "--json"]
    command += ["--recipe", options.recipe, "--minutes", str(options.ours_seconds / 60), "--seed", str(seed)]
    command += ["--valid", str(valid[1] - valid[0]), "--test", str(len(corpus.ids_N) - valid[1])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    facts = json.loads(done.stdout)
    return {**facts, "bits_per_character": facts["valid_bits_per_character"]}


def theirs(
    options: argparse.Namespace, corpus: Corpus, train: int, valid: tuple[int, int], seed: int, folder: Path
) -> dict[str, Any]:
    weights = folder / f"reference-{seed}.safetensors"
    text = folder / "text"
    if not text.exists():
        text.write_bytes(corpus.ids_N.tobytes())
    command = [sys.executable, reference.__file__, str(text), "--train", str(train), "--out", str(weights)]
    command += ["--seconds", str(options.seconds), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    model = reference.load(str(weights))
    score = evaluate(
        lambda tokens, keep: model(tokens)[:, -keep:],
        corpus.ids_N, valid, reference.CONTEXT, reference.CONTEXT // 2, reference.ALPHABET,
    )  # fmt: skip
    return {**json.loads(done.stdout.splitlines()[-1]), "bits_per_character": score.bits_per_character}
