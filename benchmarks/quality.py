r"""Bits per character of recipes against benchmarks/reference.py, after equal or shorter training time.

They alternate, seed by seed, on the same training text. All are scored with stride C/2 on the whole validation part,
outside the measured time. Differences are paired by seed, with a 95% interval for two or more seeds.

    python -m benchmarks quality --text text8-prefix.xz --valid 250000 --test 253641 --seconds 300 --seeds 5 \
        --ours ladder:100 ladder:300 sprint:100
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
from benchmarks.score_reference import score_reference
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
    parser.add_argument("--ours", nargs="+", metavar="RECIPE:SECONDS", help="default: ladder, for --seconds")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="ten seconds each, a short validation part")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds, options.ours, options.seeds = 10.0, None, 1
    recipes: list[str] = options.ours or [f"ladder:{options.seconds:g}"]
    corpus = open_corpus(options.text)
    parts = split(len(corpus.ids_N), options.valid, options.test)
    valid = (parts.valid[0], parts.valid[0] + 16_384) if options.quick else parts.valid
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in (*recipes, "reference")}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name in recipes:
                runs[name].append(train_recipe(name, corpus, valid, seed, Path(folder)))
                print_seed(seed, runs)
            runs["reference"].append(
                train_reference(options.seconds, corpus, parts.train[1], valid, seed, Path(folder))
            )
            print_seed(seed, runs)
    bits = {name: [run["bits_per_character"] for run in done] for name, done in runs.items()}
    gains = {name: paired(bits[name], bits["reference"]) for name in recipes}
    rows = [["", "bits per character", "difference to reference", "characters/s", "steps"]]
    for name, done in runs.items():
        columns = [[run[key] for run in done] for key in ("bits_per_character", "characters_per_second", "steps")]
        bpc, rate, steps = (f"{statistics.mean(c):,.{d}f}" for c, d in zip(columns, (4, 0, 0), strict=True))
        rows.append([name, bpc, interval(*gains[name]) if name in gains else "", rate, steps])
    report(
        f"bits per character on valid text, reference after {options.seconds:g} s",
        {f"reference_bits_over_{n}": statistics.mean(bits["reference"]) / statistics.mean(bits[n]) for n in recipes},
        {"runs": runs, "lower_by_bits": {n: {"mean": m, "95_percent_half_width": h} for n, (m, h) in gains.items()}},
        {**vars(options), "corpus_sha256": corpus.sha256, "valid": valid, "train": parts.train, "stride": "C/2"},
        rows,
        options.json,
    )
    return 0


def print_seed(seed: int, runs: dict[str, list[dict[str, Any]]]) -> None:
    done = {name: f"{run[seed]['bits_per_character']:.4f}" for name, run in runs.items() if len(run) > seed}
    print(f"seed {seed}: " + ", ".join(f"{name} {bits}" for name, bits in done.items()), file=sys.stderr, flush=True)


def paired(lower: Sequence[float], upper: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the differences upper - lower, and half the width of its 95% interval where there are at least two."""
    gains = [b - a for a, b in zip(lower, upper, strict=True)]
    if not 1 < len(gains) <= len(T95):
        return statistics.mean(gains), None
    return statistics.mean(gains), T95[len(gains) - 1] * statistics.stdev(gains) / math.sqrt(len(gains))


def interval(mean: float, half: float | None) -> str:
    return f"{mean:.4f} (one seed: no interval)" if half is None else f"{mean:.4f} +- {half:.4f} (95%)"


def train_recipe(name: str, corpus: Corpus, valid: tuple[int, int], seed: int, folder: Path) -> dict[str, Any]:
    recipe, seconds = name.split(":")
    command = [sys.executable, "-m", "charladder", "train", corpus.name, "--run", str(folder / f"{name}-{seed}")]
    command += ["--recipe", recipe, "--minutes", str(float(seconds) / 60), "--seed", str(seed), "--json"]
    command += ["--valid", str(valid[1] - valid[0]), "--test", str(len(corpus.ids_N) - valid[1]), "--score", "whole"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    result = json.loads(done.stdout)
    return {**result, "bits_per_character": result["valid_bits_per_character"]}


def train_reference(
    seconds: float, corpus: Corpus, train: int, valid: tuple[int, int], seed: int, folder: Path
) -> dict[str, Any]:
    weights = folder / f"reference-{seed}.safetensors"
    text = folder / "text"
    if not text.exists():
        text.write_bytes(corpus.ids_N.tobytes())
    command = [sys.executable, reference.__file__, str(text), "--train", str(train), "--out", str(weights)]
    command += ["--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    score = score_reference(reference.load(str(weights)), corpus.ids_N, valid)
    return {**json.loads(done.stdout.splitlines()[-1]), "bits_per_character": score.bits_per_character}
