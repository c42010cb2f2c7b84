"""Draws the norms of gradients by layer that a study measured, and prints them as Markdown.

`collect` writes them to benchmarks/results/NAME-norms.csv, and the table [norms] of NAME.toml beside it lays out the
figure (see benchmarks/norms_file.py): docs/pictures/NAME-norms.svg. A norm is that of the gradient of all parameters of
a layer. The same tables give the same bytes with the same version of matplotlib, and tests/benchmarks/test_norms.py
compares the pictures in docs/pictures with what this command draws.

    python -m benchmarks norms norms-adamw
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.forest import PICTURES
from benchmarks.norms_figure import draw_norms, first_measurement
from benchmarks.norms_file import NormsFile, read_norms_file, short_name
from benchmarks.norms_numbers import (
    DEPTH,
    ArmNorms,
    Profile,
    depth_ratios,
    list_missing,
    order_values,
    read_arms,
)
from benchmarks.result_tables import RESULTS
from charladder.studies.markdown_report import escape_markdown, markdown_table
from charladder.studies.number_format import NO_VALUE, format_number

THEORY = (
    "The last layer's norm of the main loss, {first}, divided by that of the shallowest network. Theorem 1 of Xiong et "
    "al. (2020, arXiv 2002.04745) bounds the gradient of one matrix of the last of L layers, the second of its "
    "feed-forward part, at initialisation: by a multiple of 1/sqrt(L) with norms before each part (pre), and by a "
    "constant with norms after the addition (post). The columns have the ratios of these bounds. The norms here are of "
    "all parameters of the layer, and an upper bound does not say that a norm reaches it."
)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks norms", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="of a file benchmarks/results/NAME.toml")
    parser.add_argument("--output", type=Path, default=PICTURES, help="the folder of the SVGs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    options = parser.parse_args(argv)
    files = [read_norms_file(options.results, name) for name in options.names]
    arms = [read_arms(options.results, about) for about in files]
    options.output.mkdir(parents=True, exist_ok=True)
    for about, its_arms in zip(files, arms, strict=True):
        path = options.output / f"{about.name}-norms.svg"
        draw_norms(about, its_arms, path)
        print(f"drawn: {path}", *list_missing(about, its_arms), sep="\n", file=sys.stderr)
        print(to_markdown(about, its_arms))
    return 0


def to_markdown(about: NormsFile, arms: Sequence[ArmNorms]) -> str:
    """A heading with the title, a table of the arms, and one that compares depths."""
    arms = _sort_arms(about, arms)
    names = [short_name(setting) for setting in about.settings if setting is not None] or ["arm"]
    first = first_measurement(arms)
    layers = [f"{when}: {layer}" for when in (first, "last third") for layer in ("layer 1", "layer L/2", "layer L")]
    head = [*names, "L", *layers[:3], "seeds", *layers[3:], "seeds"]
    rows = [[*_labels(about, arm), str(arm.layers), *_cells(arm.first), *_cells(arm.late)] for arm in arms]
    if DEPTH in about.settings:  # it has a column already
        head, *rows = [[*cells[: len(names)], *cells[len(names) + 1 :]] for cells in (head, *rows)]
    parts = [f"**{escape_markdown(about.title)}**", markdown_table([head, *rows])]
    ratios = depth_ratios(about, arms)
    if ratios:
        head = [*names, "L, and of the shallowest", "ratio", "bound, pre", "bound, post", "seeds of the two"]
        rows = []
        for one in ratios:
            few, many = one.shallow.layers, one.deep.layers
            expected = f"{math.sqrt(few / many):.3f}", "1.000"
            seeds = f"{one.deep.first.seeds}, {one.shallow.first.seeds}"
            ratio = format_number(one.ratio, ".3f")
            rows.append([*_labels(about, one.deep), f"{many}, {few}", ratio, *expected, seeds])
        parts += [THEORY.format(first=first), markdown_table([head, *rows])]
    return "\n\n".join(parts) + "\n"


def _sort_arms(about: NormsFile, arms: Iterable[ArmNorms]) -> list[ArmNorms]:
    """The arms in the order of the figure."""
    arms = list(arms)
    orders = [order_values(about, arms, index) for index in range(3)]
    return sorted(arms, key=lambda arm: [order.index(value) for order, value in zip(orders, arm.place, strict=True)])


def _labels(about: NormsFile, arm: ArmNorms) -> list[str]:
    """The values of an arm, with the labels that the file gives them; its name where no setting is shown."""
    pairs = [(name, value) for name, value in zip(about.settings, arm.place, strict=True) if name is not None]
    labels = [about.labels.get(name, {}).get(value, value) for name, value in pairs] or [arm.name]
    return list(map(escape_markdown, labels))


def _cells(profile: Profile | None) -> list[str]:
    """The norms of the layers 1, L/2 (rounded down) and L, and the number of seeds."""
    if profile is None:
        return [NO_VALUE] * 3 + ["0"]
    depth = len(profile.mean)
    return [f"{profile.mean[layer - 1]:.3g}" for layer in (1, max(1, depth // 2), depth)] + [str(profile.seeds)]
