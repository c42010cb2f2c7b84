"""The figures of `charladder plot`: training curves of several runs, and the weights of the losses over training.

Shapes: P points of a curve, S samples of progress, R layers, K targets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from charladder.objective import ObjectiveConfig, depends_on_step, term_weights
from charladder.plotting import (
    CURVE_STYLE,
    WEIGHT_COLORMAP,
    after_opening,
    curve_style,
    fit_y_axis,
    literal_text,
    matplotlib_style,
    save_figure,
    weight_norm,
)
from charladder.studies.results import Curve, RunCurves

X_AXES = {"characters": "million characters", "seconds": "seconds of training", "steps": "steps"}
MAX_TARGETS = 8  # panels of a schedule
MAX_WEIGHTS = 1_000_000  # computed for one figure
AVERAGED_STEPS = 16  # for weights that change at every step


def draw_runs(runs: Mapping[str, RunCurves], terms: Sequence[str], by: str, path: Path) -> None:
    """Draws bits per character over `by`: of the validations, and of each term of the training loss."""
    with matplotlib_style(CURVE_STYLE) as Figure:
        rows = -(-(1 + len(terms)) // 2)
        figure = Figure(figsize=(10, 3.8 * rows), layout="constrained")
        panels = list(figure.subplots(rows, 2, squeeze=False).flat)
        handles: dict[str, Any] = {}
        titles = ["valid (first characters of the valid part)", *(f"training: {term}" for term in terms)]
        for panel, (axes, title) in enumerate(zip(panels, titles, strict=False)):
            later_bits: list[float] = []  # without the opening
            for index, (name, curves) in enumerate(runs.items()):
                curve = curves.validations if panel == 0 else curves.terms.get(terms[panel - 1])
                if curve is not None and len(curve.bits_P):
                    style = curve_style(index) | {"marker": "." if panel == 0 else ""}
                    (handles[name],) = axes.plot(_x_values(curve, by), curve.bits_P, **style)
                    later_bits += after_opening(curve.steps_P, curve.bits_P, curves.steps)
            if panel > 0:
                fit_y_axis(axes, later_bits)
            axes.set(title=literal_text(title), xlabel=X_AXES[by], ylabel="bits per character")
        for axes in panels[len(titles) :]:
            axes.set_visible(False)
        labels = [literal_text(name) for name in handles]
        figure.legend(list(handles.values()), labels, loc="outside lower center", ncols=2)
        save_figure(figure, path)


def _x_values(curve: Curve, by: str) -> np.ndarray:
    """The x values of a curve, (P,)."""
    return {"characters": curve.characters_P / 1e6, "seconds": curve.seconds_P, "steps": curve.steps_P}[by]


def draw_schedule(settings: ObjectiveConfig, layers: int, name: str, path: Path) -> None:
    """Draws the weight of every layer's loss as a colour over progress, in a panel for each target."""
    _, weights_SRK = sample_schedule(settings, layers)
    shown = min(settings.targets, MAX_TARGETS)
    with matplotlib_style() as Figure:
        figure = Figure(figsize=(min(14, 3.2 * shown + 2), min(12, 2.2 + 0.25 * layers)), layout="constrained")
        panels = figure.subplots(1, shown, squeeze=False, sharey=True)[0]
        weights_SRK = weights_SRK[:, :, :shown]
        max_weight = max(1e-9, float(weights_SRK.max()))
        image = None
        for k, axes in enumerate(panels):
            edges = 0, 1, 0.5, layers + 0.5
            image = axes.imshow(
                weights_SRK[:, :, k].T, origin="lower", aspect="auto", extent=edges, norm=weight_norm(max_weight),
                cmap=WEIGHT_COLORMAP, interpolation="nearest",
            )  # fmt: skip
            axes.set(title="next character" if k == 0 else f"{k + 1} ahead", xlabel="progress")
            axes.yaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("layer")
        figure.colorbar(image, ax=list(panels), label="weight of the loss")
        more = f", the first {shown} of {settings.targets} targets" if shown < settings.targets else ""
        figure.suptitle(literal_text(f"{name}: the losses that contribute{more}"))
        save_figure(figure, path)


def sample_schedule(settings: ObjectiveConfig, layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of progress, (S,), each in the middle of its part of training, and the weights there, (S, R, K).

    Weights that change at every step are averaged over AVERAGED_STEPS steps.
    """
    steps = AVERAGED_STEPS if depends_on_step(settings) else 1
    samples = int(np.clip(MAX_WEIGHTS // (layers * settings.targets * steps), 20, 200))
    progress_S = (np.arange(samples) + 0.5) / samples
    weights_SRK = np.zeros((samples, layers, settings.targets))
    for sample, progress in enumerate(progress_S):
        for step in range(steps):
            for (layer, k), weight in term_weights(settings, layers, float(progress), step).items():
                weights_SRK[sample, layer - 1, k - 1] += weight / steps
    return progress_S, weights_SRK
