r"""Bits per character of an entry on the test part of text8-prefix, after 300 or 60 seconds on two cores, by seeds.

ENTRY: reference (benchmarks/reference.py as it is), reference-tuned (with the settings of a sweep), ladder, sprint, or
command (a program of your own). The clock is that of the process that trains: from before its start until it has ended.
A row for each seed is appended to benchmarks/results/speedrun.csv; seeds with a row are not repeated. The task, the
rules and the table: docs/speedrun.md.

    python -m benchmarks speedrun ladder --data text8
    python -m benchmarks speedrun --table --page docs/speedrun.md
"""

import argparse
import random
import string
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from benchmarks.measure import report
from benchmarks.provenance import describe_source
from benchmarks.speedrun import records
from benchmarks.speedrun.command_entry import make_command_entry
from benchmarks.speedrun.entries import NAMES, Entry, make_entry
from benchmarks.speedrun.records import Row, estimate_bits, format_interval
from benchmarks.speedrun.task import Task, open_task
from benchmarks.timed_process import run_timed, two_cores
from charladder.cli.signals import interrupt_on_signal
from charladder.errors import UserError

QUICK_SECONDS = 2.0
WARM_UP_SECONDS, WARM_UP_LIMIT, WARM_UP_CHARACTERS = 1.0, 900.0, 200_000
MAX_SEEDS = 100


def main(argv: Sequence[str]) -> int:
    options = parse_options(argv)
    if options.table:
        rows = records.read_rows(options.results or records.RESULTS)
        if options.page:
            records.fill_page(options.page, rows)
        else:
            print(records.markdown_table(rows), end="")
        return 0
    if options.data is None:
        raise UserError("--data is missing; give the text of the task, a file or `text8`")
    task = open_task(options.data, options.seconds, options.quick)
    if options.entry == "command":
        entry: Entry = make_command_entry(options.name, options.source, options.train, options.predict)
    else:
        entry = make_entry(options.entry, options.seconds, task.train_end, options.settings)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        results = options.results or (folder / "results.csv" if options.quick else records.RESULTS)
        results.parent.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(FileLock(results.parent / ".speedrun.lock", blocking=False))
        except Timeout:
            raise UserError(f"another speedrun writes to {results.parent}; wait for it") from None
        stack.enter_context(interrupt_on_signal())
        stack.enter_context(two_cores(required=not options.quick))
        rows = verify(entry, task, options, results, folder)
    report_rows(entry, task, options, rows)
    return 0


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks speedrun", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("entry", nargs="?", choices=[*NAMES, "command"], metavar="ENTRY")
    parser.add_argument("--data", metavar="TEXT", help="the text of the task: a file, or text8, whose prefix it is")
    parser.add_argument("--seconds", type=float, default=300.0, help="300 (default) or 60")
    parser.add_argument("--seeds", type=int, default=records.SEEDS, help="number of seeds, from 0 (a record has 5)")
    help_text = "seconds of the process in which an entry of this project does not train (default: from a warm-up)"
    parser.add_argument("--reserve", type=float, help=help_text)
    parser.add_argument("--settings", type=Path, metavar="FILE", help="of reference-tuned: other settings, as TOML")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: benchmarks/results/speedrun.csv")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, two seconds, any text; rows go to --results only"
    )
    parser.add_argument("--json", action="store_true")
    yours = parser.add_argument_group("the entry `command`")
    yours.add_argument("--name", help="of the entry, in the table")
    yours.add_argument("--source", help="where its code is, with its commit")
    yours.add_argument("--train", metavar="COMMAND", help="with {text} {seconds} {seed} {out}")
    yours.add_argument("--predict", metavar="COMMAND", help="with {text} {begin} {end} {out} {predictions}")
    table = parser.add_argument_group("the table")
    table.add_argument("--table", action="store_true", help="print the table of the results, and train nothing")
    table.add_argument("--page", type=Path, metavar="FILE", help="with --table: write it into this page")
    options = parser.parse_args(argv)
    if options.entry is None and not options.table:
        raise UserError(f"ENTRY is missing; give one of {', '.join(NAMES)}, command, or --table")
    if options.page and not options.table:
        raise UserError("--page is for the table; give --table too")
    if not 1 <= options.seeds <= MAX_SEEDS:
        raise UserError(field="seeds", value=options.seeds, rule=f"it must be from 1 to {MAX_SEEDS}")
    if options.reserve is not None and not 0 <= options.reserve < options.seconds:
        raise UserError(field="reserve", value=options.reserve, rule="it must be from 0 to less than the seconds")
    if options.settings and options.entry != "reference-tuned":
        raise UserError("--settings is for the entry reference-tuned; leave it out")
    if options.quick:
        options.seeds, options.seconds, options.reserve = 1, QUICK_SECONDS, 0.0
    return options


def verify(entry: Entry, task: Task, options: argparse.Namespace, results: Path, folder: Path) -> list[Row]:
    """Trains, scores and records the seeds that have no row yet. Returns the rows of all."""
    text, source = folder / "train", describe_source()
    text.write_bytes(task.ids_N[: task.train_end].tobytes())
    common = {
        "entry": entry.name, "seconds": f"{task.seconds:g}", "text_sha256": task.sha256, "settings": entry.settings,
        "source": entry.source, **source,
    }  # fmt: skip
    finished = {int(row["seed"]): row for row in records.same_verification(records.read_rows(results), common)}
    told = task.seconds
    if entry.has_reserve and not set(range(options.seeds)) <= finished.keys():
        # All seeds of a verification train for the same time, also those of a later call.
        before = next(iter(finished.values()), None) if options.reserve is None else None
        told = float(before["told_seconds"]) if before else task.seconds - choose_reserve(entry, options, folder)
    for seed in range(options.seeds):
        note = " (recorded before)"
        if seed not in finished:
            finished[seed] = common | run_seed(entry, task, told, seed, text, folder)
            records.append_row(results, finished[seed])
            note = f", process {float(finished[seed]['process_seconds']):.1f} s"
        bits = float(finished[seed]["bits_per_character"])
        print(f"{entry.name}, seed {seed}: {bits:.4f} bits per character{note}", file=sys.stderr, flush=True)
    return [finished[seed] for seed in range(options.seeds)]


def run_seed(entry: Entry, task: Task, told: float, seed: int, text: Path, folder: Path) -> Row:
    """Trains and scores one seed. Raises UserError if the process does not end in time."""
    here = folder / f"seed-{seed}"
    here.mkdir()
    command = entry.train_command(text, told, seed, here)
    name = f"the training of {entry.name}, seed {seed},"
    try:
        process = run_timed(command, folder, task.limit, name)
    except UserError as error:
        late = entry.has_reserve and "its limit" in str(error)
        advice = f"; give a larger --reserve than {task.seconds - told:.1f}" if late else ""
        raise UserError(f"{error}{advice}") from None
    score = entry.score(task, here)
    return {
        "seed": str(seed), "bits_per_character": repr(score.bits_per_character),
        "characters": str(task.test[1] - task.test[0]), "context": "" if score.context is None else str(score.context),
        "told_seconds": f"{told:.3f}", "process_seconds": f"{process.seconds:.3f}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }  # fmt: skip


def choose_reserve(entry: Entry, options: argparse.Namespace, folder: Path) -> float:
    """--reserve, or one and a half times what a process takes in addition to its training, and a second.

    This is measured by the second of two short trainings on random letters. The first one fills the caches: functions
    in C are compiled before the clock of any seed.
    """
    if options.reserve is not None:
        return options.reserve
    text, draw, seconds = folder / "letters", random.Random(0), 0.0
    text.write_bytes("".join(draw.choices(string.ascii_lowercase + " ", k=WARM_UP_CHARACTERS)).encode())
    for number in range(2):
        here = folder / f"warm-up-{number}"
        here.mkdir()
        command = entry.train_command(text, WARM_UP_SECONDS, 0, here)
        seconds = run_timed(command, folder, WARM_UP_LIMIT, f"the warm-up of {entry.name}").seconds
    reserve = 1.5 * max(0.0, seconds - WARM_UP_SECONDS) + 1.0
    if reserve >= options.seconds:
        raise UserError(f"a process of {entry.name} takes {seconds:.0f} s without training; --reserve sets less")
    note = "; this is much, so the machine may be busy with other work" if reserve > options.seconds / 4 else ""
    print(f"{entry.name}: {reserve:.1f} s of {options.seconds:g} for start and end{note}", file=sys.stderr, flush=True)
    return reserve


def report_rows(entry: Entry, task: Task, options: argparse.Namespace, rows: list[Row]) -> None:
    estimate = estimate_bits(rows)
    table = [["seed", "bits per character", "seconds of the process"]]
    table += [[row["seed"], f"{float(row['bits_per_character']):.4f}", row["process_seconds"]] for row in rows]
    table.append(["mean", f"{estimate.mean:.4f}", f"95% interval: {format_interval(estimate)}"])
    source = {name: rows[-1][name] for name in ("commit", "processor", "cores", "torch", "charladder", "text_sha256")}
    print("".join(f"{name}: {value}\n" for name, value in source.items()), end="", file=sys.stderr)
    report(
        f"{entry.name}: test part of the speedrun after {task.seconds:g} s, seeds: {len(rows)}",
        {},
        {"rows": rows, "bits_per_character": {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}},
        {**source, "entry": entry.name, "seconds": task.seconds, "seeds": options.seeds},
        table,
        options.json,
    )
