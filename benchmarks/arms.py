"""Prints the bits of every run in a table of benchmarks/results, by arm, as Markdown.

    python -m benchmarks arms norms-adamw --below 3.9
    python -m benchmarks arms norms-adamw --sweep      # the trials that chose the learning rates

--below BITS counts the runs that score fewer bits.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from benchmarks.result_tables import RESULTS, Row, read_rows
from charladder.errors import UserError
from charladder.studies.markdown_report import escape_markdown, markdown_table


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks arms", description=__doc__)
    parser.add_argument("name", metavar="NAME", help="of a table benchmarks/results/NAME.csv")
    parser.add_argument("--sweep", action="store_true", help="the runs that chose the settings, not those compared")
    parser.add_argument("--below", type=float, metavar="BITS", help="count the runs that score fewer bits")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    options = parser.parse_args(argv)
    stage = "sweep" if options.sweep else "final"
    rows = [row for row in read_rows(options.results / f"{options.name}.csv") if row["stage"] == stage]
    if not rows:
        raise UserError(f"{options.results / options.name}.csv has no runs of the stage {stage}")
    print(to_markdown(rows, options.below))
    return 0


def to_markdown(rows: Sequence[Row], below: float | None) -> str:
    """A line for each text and arm, in the order of the rows: learning rate, bits by seed, and their mean."""
    seeds = sorted({int(row["seed"]) for row in rows})
    several_texts = len({row["text"] for row in rows}) > 1
    by_arm: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        by_arm.setdefault((row["text"] if several_texts else "", row["arm"]), {})[int(row["seed"])] = row
    head = ["text"] * several_texts + ["arm", "learning rate", *(f"seed {seed}" for seed in seeds), "mean"]
    lines = [head if below is None else [*head, f"below {below:g}"]]
    for (text, arm), runs in by_arm.items():
        bits = {seed: float(row["bits_per_character"]) for seed, row in runs.items()}
        rates = dict.fromkeys(f"{float(row['learning_rate']):g}" for row in runs.values())
        cells = [escape_markdown(text)] * several_texts + [escape_markdown(arm), ", ".join(rates)]
        cells += [f"{bits[seed]:.4f}" if seed in bits else "-" for seed in seeds] + [f"{fmean(bits.values()):.4f}"]
        if below is not None:
            cells.append(f"{sum(value < below for value in bits.values())} of {len(bits)}")
        lines.append(cells)
    return markdown_table(lines)
