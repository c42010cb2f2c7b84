"""The tables benchmarks/results/NAME-norms.csv: norms of gradients by layer, of the runs that measured them."""

import math
from collections.abc import Iterable

from charladder.studies.results import FinishedRun, GradientNorms

FIRST = "first"  # the first measurement; at progress 0 it is that of the initialisation
THIRDS = "early", "mid", "late"  # means over the measurements in a third of training, as in the report of a study
NORM_COLUMNS = "text", "arm", "seed", "when", "progress", "layer", "norm", "main_norm"


def norm_rows(text: str, run: FinishedRun) -> list[dict[str, str]]:
    """The rows of a run, by time and layer: the norm of all terms together and of the main loss alone, and the mean
    progress of the measurements."""
    of_main = summarise(run.curves.main_gradient_norms)
    rows = []
    for when, (progress, norms) in summarise(run.curves.gradient_norms).items():
        main = of_main.get(when, (math.nan, {}))[1]
        for layer in sorted(norms, key=layer_number):
            cells = text, run.arm, run.seed, when, f"{progress:.4g}", layer_number(layer), f"{norms[layer]:.6g}"
            alone = f"{main[layer]:.6g}" if layer in main else ""
            rows.append(dict(zip(NORM_COLUMNS, map(str, (*cells, alone)), strict=True)))
    return rows


def layer_number(layer: str) -> int:
    return int(layer.removeprefix("layer"))


def summarise(measured: Iterable[tuple[float, GradientNorms]]) -> dict[str, tuple[float, GradientNorms]]:
    """Progress and norms of the first measurement, and their means over each third that has measurements."""
    measured = sorted(measured, key=lambda one: one[0])
    groups = {FIRST: measured[:1]}
    for third, name in enumerate(THIRDS):
        groups[name] = [one for one in measured if min(2, int(3 * one[0])) == third]
    means = {}
    for name, several in groups.items():
        if several:
            layers = dict.fromkeys(layer for _, norms in several for layer in norms)
            by_layer = {layer: [norms[layer] for _, norms in several if layer in norms] for layer in layers}
            progress = sum(at for at, _ in several) / len(several)
            means[name] = progress, {layer: sum(values) / len(values) for layer, values in by_layer.items()}
    return means
