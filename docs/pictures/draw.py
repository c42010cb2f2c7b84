"""Draws the pictures of docs/auxiliary.md, all from what the library itself computes.

python docs/pictures/draw.py            # writes three SVGs beside this file
python docs/pictures/draw.py FOLDER     # or into a folder
"""

import dataclasses
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from charladder import auxiliary as aux

STYLE = {
    "svg.hashsalt": "charladder",  # the same names inside the file every time
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
INK, PALE = "#22313f", "#c9ced3"
RED, BLUE, ORANGE = "#c0392b", "#1f6f8b", "#d9822b"

SCHEDULES = ("al_rfou", "deeply_supervised", "layerskip_gradual", "shallow_heavy")
TEXT, LAYERS, TARGETS, PROGRESS = "ABCDEF", 3, 2, 0.2


def three_losses() -> Figure:
    """Every prediction that the three losses ask for on TEXT: layers as rows, positions as columns."""
    rows = aux.explain(TEXT, layers=LAYERS, targets=TARGETS, progress=PROGRESS)
    figure = Figure(figsize=(10, 6))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 20), ylim=(0, 12))
    axes.axis("off")

    def x(position: int) -> float:
        return 5.2 + 2.6 * position

    def y(layer: int) -> float:
        return 2.1 + 2.5 * (layer - 1)

    for position, letter in enumerate(TEXT):
        box(axes, x(position), 0.7, letter, "#e4e9ee", 14)
        for layer in range(1, LAYERS + 1):
            below = y(layer - 1) if layer > 1 else 0.7
            arrow(axes, (x(position) - 0.6, below + 0.38), (x(position) - 0.6, y(layer) - 0.38), "#9aa5af")
            box(axes, x(position), y(layer), TEXT[: position + 1], "white", 9)
    for row in rows:
        start = x(len(row.given) - 1) - 0.2 + 0.3 * (row.offset - 1), y(row.layer) + 0.38
        end = x(len(row.given) - 1) - 0.05 + 0.8 * (row.offset - 1), y(row.layer) + 1.3
        colour = PALE if not row.active else RED if row.loss == "main" else BLUE if row.offset == 1 else ORANGE
        arrow(axes, start, (end[0], end[1] - 0.3), colour, row.active)
        axes.text(*end, row.target, ha="center", va="center", color=colour, fontsize=14, weight="bold")

    axes.text(3.7, 0.7, "text", ha="right", va="center", color=INK, fontsize=13, weight="bold")
    for layer in range(1, LAYERS + 1):
        weights = {row.offset: row.weight for row in rows if row.layer == layer}
        if any(weights.values()):
            weight = "weights " + " and ".join(f"{weight:g}" for weight in weights.values())
            time = "to the end" if layer == LAYERS else f"until progress {layer}/{2 * LAYERS}"
        else:
            weight, time = "silent", f"since progress {layer}/{2 * LAYERS}"
        axes.text(
            3.7, y(layer) + 0.45, f"layer {layer}", ha="right", va="center", color=INK, fontsize=13, weight="bold"
        )
        axes.text(3.7, y(layer) - 0.05, weight, ha="right", va="center", color=INK, fontsize=10)
        axes.text(3.7, y(layer) - 0.45, time, ha="right", va="center", color=INK, fontsize=10)

    legend = (
        (RED, "1. Every position of the last layer: the next letter (the main loss)"),
        (BLUE, "2. Every layer below: the next letter too"),
        (ORANGE, "3. Several targets: the letter after the next, at half the weight"),
    )
    for place, (colour, words) in enumerate(legend):
        axes.text(0.5, 11.5 - 0.55 * place, words, color=colour, fontsize=11, weight="bold", va="center")
    axes.text(
        0.5, 9.85, f"At progress {PROGRESS} of training; what is silent is pale.", color=INK, fontsize=11, va="center"
    )
    return figure


def box(axes: Any, x: float, y: float, words: str, face: str, size: int) -> None:
    shape = FancyBboxPatch(
        (x - 0.8, y - 0.32), 1.6, 0.64, boxstyle="round,pad=0,rounding_size=0.15", facecolor=face, edgecolor=INK
    )
    axes.add_patch(shape)
    axes.text(x, y, words, ha="center", va="center_baseline", color=INK, fontsize=size)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, solid: bool = True) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "linestyle": "-" if solid else ":"}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9})


def schedule(layers: int = 12) -> Figure:
    """The weight of every layer over training, preset by preset."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, len(SCHEDULES), sharey=True)
    colours = LinearSegmentedColormap.from_list("weight", ["#e3eef2", "#7fb2c4", "#1f6f8b", "#0b2f3d"])
    norm = PowerNorm(0.4, 0, 1)
    for axes, name in zip(panels, SCHEDULES, strict=True):
        for layer in range(1, layers + 1):
            bars = [piece for piece in pieces(name, layer, layers) if piece[2]]
            axes.broken_barh(
                [(begin, end - begin) for begin, end, _ in bars],
                (layer - 0.35, 0.7),
                color=[colours(norm(weight)) for _, _, weight in bars],
                linewidth=0.3,
            )
        axes.set(title=name, xlabel="progress", xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(0.4, layers + 0.6))
        axes.set_yticks(range(1, layers + 1))
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
    panels[0].set_ylabel(f"layer ({layers}: the main loss)")
    scale = figure.colorbar(ScalarMappable(norm, colours), ax=panels, label="weight", fraction=0.03, pad=0.01)
    scale.set_ticks([0.01, 0.05, 0.1, 0.25, 0.5, 1])
    scale.set_ticklabels(["0.01", "0.05", "0.1", "0.25", "0.5", "1"])
    return figure


def pieces(name: str, layer: int, layers: int, parts: int = 48) -> Iterator[tuple[float, float, float]]:
    """Begin, end and weight of the stretches of training in which a preset holds the weight of a layer.

    A weight that moves all the time is taken at the middle of each part.
    """
    term = aux.Term(nn.MSELoss(), weight=name, layer=layer, layers=layers)
    if layer == layers:
        objective, key = aux.Objective(term), "main"
    else:
        last = dataclasses.replace(term, layer=layers)
        objective, key = aux.Objective(last, {"layer": term}), "layer"
    weights = [objective.weights((part + 0.5) / parts)[key] for part in range(parts)]
    begin = 0
    for weight, several in groupby(weights):
        end = begin + len(list(several))
        yield begin / parts, end / parts, weight
        begin = end


class Deep(nn.Module):
    """Many narrow layers, one after another, with nothing that would help gradients through."""

    def __init__(self, layers: int, width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(layers)))
        self.output = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.layers(x))


def measure(layers: int = 24, width: int = 32, classes: int = 10, weight: float = 0.3) -> aux.Diagnosis:
    """A new network's gradients on one batch of noise, with a head on every layer and without."""
    torch.manual_seed(0)
    model = Deep(layers, width, classes)
    x, y = torch.randn(256, width), torch.randint(classes, (256,))
    terms = aux.intermediate_terms(model, "layers.*", F.cross_entropy, weight=weight, head=aux.heads.linear(classes))
    objective = aux.Objective(aux.Term(F.cross_entropy), terms).build(model, x)
    report = objective(model, x, y)
    return aux.diagnose(report, aux.by_depth(model, "layers.*"), lambda name: "layers")


def gradients() -> Figure:
    """Gradient norms by depth, with and without auxiliary terms."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    aux.draw_depths(axes, [measure()])
    for line, colour in zip(axes.lines, (BLUE, RED), strict=True):
        line.set(color=colour, markersize=4)
    axes.set(xlabel="layer (1: the lowest)", ylabel="norm of its gradient", title="24 tanh layers, before any training")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right")
    return figure


PICTURES = {"three_losses": three_losses, "schedule": schedule, "gradients": gradients}


def main(folder: Path) -> None:
    for name, draw in PICTURES.items():
        with matplotlib.rc_context(STYLE):
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})
        print(folder / f"{name}.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
