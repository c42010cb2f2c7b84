r"""The best shape, window and learning rates of benchmarks/reference.py under a budget in seconds, on a text.

Successive halving: the default and random settings of the grid are trained for a part of the budget, the best of them
again for a longer part, and the best of these for the whole budget. Trials are scored on the first characters of the
valid part at stride C/2, outside of the measured time, with other seeds than those of final runs. The test part is not
read. A line of OUT/trials.jsonl is one trial; a sweep that was interrupted goes on where it ended, by the same command.
At the end, OUT/best.toml has the settings with the fewest bits in the last round.

    python -m benchmarks reference_sweep text8-prefix.xz --seconds 300 --out sweeps/300 --dry-run
"""

import argparse
import itertools
import json
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks import reference
from benchmarks.measure import report
from benchmarks.provenance import describe_source
from benchmarks.reference import Settings
from benchmarks.score_reference import score_reference
from benchmarks.timed_process import run_timed, two_cores
from benchmarks.trials import HalvingRound, Trials, check_plan, parse_rounds
from benchmarks.tuned_settings import write_settings
from charladder.cli.signals import interrupt_on_signal
from charladder.errors import UserError
from charladder.text import Corpus, Split, open_corpus, split

LAYERS, WIDTHS, RATES = (4, 6, 8), (128, 192, 256), (0.5, 1.0, 2.0)
WINDOWS = ((128, 8), (128, 16), (256, 4), (256, 8), (512, 4))  # context x batch
ROUNDS = "24:0.25 8:0.5 3:1"
FIRST_SEED = 100  # the seed of the first round, and that of a later round is its number higher; final runs have 0 to 4
HEAD = 64  # characters of a head
START_LIMIT_SECONDS = 120  # a trial may take this much longer than its training


def grid() -> list[Settings]:
    """All settings, the default first."""
    default = Settings()
    settings = [
        Settings(
            layers, width, width // HEAD, width * 8 // 3, context, batch, default.muon_rate * rate,
            default.adam_rate * rate,
        )
        for layers, width, (context, batch), rate in itertools.product(LAYERS, WIDTHS, WINDOWS, RATES)
    ]  # fmt: skip
    return [default, *(one for one in settings if one != default)]


def draw_settings(count: int, draw: int) -> list[Settings]:
    """The default and count - 1 other settings, drawn without repetition."""
    default, *others = grid()
    return [default, *random.Random(draw).sample(others, count - 1)]


def main(argv: Sequence[str]) -> int:
    options = parse_options(argv)
    corpus = open_corpus(options.text)
    parts = split(len(corpus.ids_N), options.valid, options.test)
    valid = (parts.valid[0], min(parts.valid[1], parts.valid[0] + options.score))
    if valid[0] == valid[1]:
        raise UserError("--valid is 0, and trials are compared on the valid part; give a number of characters")
    rounds = parse_rounds(options.rounds, len(grid()))
    print(describe_budget(rounds, options.seconds, valid[1] - valid[0]), file=sys.stderr, flush=True)
    if options.dry_run:
        return 0
    plan = {
        "text_sha256": corpus.sha256, "train": parts.train, "scored": valid, "seconds": options.seconds,
        "rounds": [[halving.settings, halving.share] for halving in rounds], "draw": options.draw,
        "grid": {"layers": LAYERS, "width": WIDTHS, "context and batch": WINDOWS, "rate": RATES},
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        lock, cores = FileLock(options.out / ".lock", blocking=False), two_cores(required=not options.quick)
        with interrupt_on_signal(), lock, cores:
            check_plan(options.out / "plan.json", plan)
            trials = Trials(options.out / "trials.jsonl")
            ranked = run_rounds(rounds, options, corpus, parts, valid, trials)
    except Timeout:
        raise UserError(f"{options.out} is used by another sweep; wait for it, or give another --out") from None
    best = ranked[0]
    found_by = {"seconds": options.seconds, "trials": len(trials.lines), "valid_bits": best["valid_bits"]}
    found_by |= {"seed": best["seed"], "text_sha256": corpus.sha256, "commit": best["commit"]}
    write_settings(options.out / "best.toml", Settings(**best["settings"]), found_by)
    report_trials(options, rounds[-1], ranked, trials, plan)
    return 0


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks reference_sweep", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("text", help="a corpus name or a file")
    parser.add_argument("--valid", type=float, default=250_000, help="characters or fraction before the test part")
    parser.add_argument("--test", type=float, default=253_641, help="characters or fraction at the end, not read")
    parser.add_argument("--seconds", type=float, default=300, help="training time of the last round (default 300)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trials")
    help_text = f"number of settings and part of the seconds of each round (default: {ROUNDS})"
    parser.add_argument("--rounds", nargs="+", default=ROUNDS.split(), metavar="SETTINGS:PART", help=help_text)
    parser.add_argument("--score", type=int, default=100_000, help="characters of the valid part (default 100000)")
    parser.add_argument("--draw", type=int, default=0, help="seed of the settings that are drawn")
    parser.add_argument("--dry-run", action="store_true", help="only print the budget")
    parser.add_argument("--quick", action="store_true", help="three short trials, few characters scored")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if not (math.isfinite(options.seconds) and options.seconds > 0):
        raise UserError(field="seconds", value=options.seconds, rule="it must be above 0")
    if options.score < 1:
        raise UserError(field="score", value=options.score, rule="it must be at least 1 character")
    if options.quick:
        options.seconds, options.rounds, options.score = 2.0, ["2:0.5", "1:1"], 2_000
    return options


def describe_budget(rounds: Sequence[HalvingRound], seconds: float, scored: int) -> str:
    """The budget of the whole sweep in one sentence."""
    each = ", ".join(f"{halving.settings} of {halving.share * seconds:g} s" for halving in rounds)
    total = sum(halving.settings * halving.share * seconds for halving in rounds)
    return (
        f"{sum(halving.settings for halving in rounds)} trials, {each}: {total / 60:.1f} minutes of training; "
        f"in addition, each trial starts a process and scores {scored:,} characters"
    )


def run_rounds(
    rounds: Sequence[HalvingRound],
    options: argparse.Namespace,
    corpus: Corpus,
    parts: Split,
    valid: tuple[int, int],
    trials: Trials,
) -> list[dict[str, Any]]:
    """Runs the trials that are not finished. Returns those of the last round, the best first."""
    settings, ranked = draw_settings(rounds[0].settings, options.draw), []
    source = describe_source()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text"
        text.write_bytes(corpus.ids_N[: parts.train[1]].tobytes())
        for number, halving in enumerate(rounds):
            lines = []
            for one in settings[: halving.settings]:
                line = trials.find(number, asdict(one))
                if line is None:
                    facts = run_trial(one, halving.share * options.seconds, FIRST_SEED + number, text, corpus, valid)
                    line = trials.append({"round": number, "settings": asdict(one), **facts, **source})
                lines.append(line)
                print_trial(number, len(lines), halving, line)
            ranked = sorted(lines, key=lambda line: math.inf if line["valid_bits"] is None else line["valid_bits"])
            if ranked[0]["valid_bits"] is None:
                raise UserError(f"no trial of round {number} has a finite score; {trials.path} says why")
            settings = [Settings(**line["settings"]) for line in ranked]
    return ranked


def run_trial(
    settings: Settings, seconds: float, seed: int, text: Path, corpus: Corpus, valid: tuple[int, int]
) -> dict[str, Any]:
    """Trains with the settings and scores the result. valid_bits is None, and `failed` says why, if the script failed
    or its score is not finite."""
    weights = text.with_name("weights.safetensors")
    weights.unlink(missing_ok=True)
    command = reference_command(settings, text, seconds, seed, weights)
    facts: dict[str, Any] = {"seed": seed, "valid_bits": None}
    try:
        done = run_timed(command, text.parent, seconds + START_LIMIT_SECONDS, "the trial")
    except UserError as error:
        return {**facts, "seconds": seconds, "steps": 0, "failed": str(error)}
    bits = score_reference(reference.load(str(weights)), corpus.ids_N, valid).bits_per_character
    facts |= json.loads(done.output.splitlines()[-1])
    return facts | ({"valid_bits": bits} if math.isfinite(bits) else {"failed": f"its score is {bits}"})


def reference_command(settings: Settings, text: Path, seconds: float, seed: int, weights: Path) -> list[str]:
    """The command that trains benchmarks/reference.py on all of a text."""
    options = itertools.chain.from_iterable(_options(settings))
    script = [sys.executable, str(reference.__file__), str(text), "--train", str(text.stat().st_size)]
    return [*script, "--seconds", str(seconds), "--seed", str(seed), "--out", str(weights), *options]


def _options(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, value in asdict(settings).items():
        yield f"--{name.replace('_', '-')}", str(value)


def format_settings(settings: dict[str, Any]) -> str:
    return "{layers} x {width}, window {context} x {batch}, rates {muon_rate:g} and {adam_rate:g}".format(**settings)


def print_trial(number: int, count: int, halving: HalvingRound, line: dict[str, Any]) -> None:
    bits = line["failed"] if line["valid_bits"] is None else f"{line['valid_bits']:.4f}"
    where = f"round {number}, {count} of {halving.settings}"
    print(f"{where}: {format_settings(line['settings'])}: {bits}", file=sys.stderr, flush=True)


def report_trials(
    options: argparse.Namespace, last: HalvingRound, ranked: list[dict[str, Any]], trials: Trials, plan: dict[str, Any]
) -> None:
    rows = [["settings of the last round", "bits per character (valid)", "steps"]]
    for line in ranked:
        bits = "failed" if line["valid_bits"] is None else f"{line['valid_bits']:.4f}"
        rows.append([format_settings(line["settings"]), bits, f"{line['steps']:,}"])
    report(
        f"the best settings of the plain script after {last.share * options.seconds:g} s: {options.out / 'best.toml'}",
        {},
        {"trials": trials.lines},
        plan,
        rows,
        options.json,
    )
