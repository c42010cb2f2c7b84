"""Draws the forest plots of docs/results.md from the tables of runs, and prints their numbers as Markdown.

benchmarks/results/NAME.toml says what is compared (see benchmarks/forest_file.py), and the CSVs beside it have the runs
that `collect` kept. Differences are paired by seed. Holm's correction is over all lines of the figure, or of a group.
The same tables give the same bytes with the same version of matplotlib, and tests/benchmarks/test_forest.py compares
the pictures in docs/pictures with what this command draws.

    python -m benchmarks forest norms
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forest_figure import draw_forest
from benchmarks.forest_file import ForestFile, read_forest_file
from benchmarks.forest_numbers import Group, Line, Pooled, compute_groups, list_left_out, read_bits
from benchmarks.result_tables import RESULTS
from charladder.studies.markdown_report import escape_markdown, markdown_table
from charladder.studies.number_format import (
    NO_VALUE,
    format_interval,
    format_mean,
    format_number,
    format_p_value,
)

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
HEADERS = "comparison", "difference", "95% interval", "p", "p (Holm)", "n", "smallest detectable", "verdict"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks forest", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a file benchmarks/results/NAME.toml")
    parser.add_argument("--output", type=Path, default=PICTURES, help="the folder of the SVGs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    options = parser.parse_args(argv)
    files = [read_forest_file(options.results, name) for name in options.names]
    bits = [read_bits(options.results, about.tables) for about in files]
    groups = [compute_groups(*each) for each in zip(files, bits, strict=True)]
    options.output.mkdir(parents=True, exist_ok=True)
    for about, its_bits, its_groups in zip(files, bits, groups, strict=True):
        path = options.output / f"{about.name}.svg"
        draw_forest(about, its_groups, path)
        print(f"drawn: {path}", *list_left_out(about, its_bits), sep="\nleft out: ", file=sys.stderr)
        print(to_markdown(about, its_groups))
    return 0


def to_markdown(about: ForestFile, groups: Sequence[Group]) -> str:
    """A heading with the title, and a table for each group."""
    parts = [f"**{escape_markdown(about.title)}**"]
    for group in groups:
        head = escape_markdown(group.title), *HEADERS[1:]
        parts.append(markdown_table([head, *map(line_cells, group.lines)]))
    return "\n\n".join(parts) + "\n"


def line_cells(line: Line | Pooled) -> tuple[str, ...]:
    """The cells of a line, in the order of HEADERS."""
    if isinstance(line, Pooled):
        return pooled_cells(line)
    one = line.difference
    return (
        escape_markdown(line.label),
        format_mean(one, "+.4f"),
        format_interval(one, "+.4f"),
        format_p_value(one.p),
        format_p_value(line.p_holm),
        str(len(one.seeds)),
        format_number(line.smallest, ".4f"),
        escape_markdown(line.verdict),
    )


def pooled_cells(line: Pooled) -> tuple[str, ...]:
    """The cells of a mean over texts; its p-value is not corrected."""
    one = line.result
    notes = [f"random effects: tau {format_number(one.tau, '.4f')}, I^2 {format_number(one.i2, '.0%')}"]
    if one.prediction_low is not None:
        notes.append(f"95% prediction for another text {one.prediction_low:+.4f} to {one.prediction_high:+.4f}")
    if line.left_out:
        notes.append(f"without {', '.join(line.left_out)}, which has too few seeds or no variance")
    return (
        escape_markdown(line.label),
        f"{one.mean:+.4f}",
        f"{one.low:+.4f} to {one.high:+.4f}",
        format_p_value(one.p),
        NO_VALUE,
        f"{one.studies} texts",
        NO_VALUE,
        escape_markdown("; ".join(notes)),
    )
