"""curves.png: bits per character, auxiliary losses minus the main loss, and gradients, over a run."""

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from charladder.auxiliary import Diagnosis, draw_depths
from charladder.plotting import (
    BATCH_COLOUR,
    CURVE_STYLE,
    MAIN_COLOUR,
    VALIDATION_COLOUR,
    after_opening,
    curve_style,
    fit_y_axis,
    literal_text,
    matplotlib_style,
    ordered_colours,
    save_figure,
)
from charladder.training.metrics import is_validation, read_metrics

_MAX_TERMS = 8  # auxiliary terms that are drawn
_MAX_BITS = 1e6  # larger values, which only damaged files contain, are not drawn
_X_LABEL = "million characters"


def draw_curves(folder: Path) -> Path | None:
    """Draws `folder/curves.png` from its metrics.jsonl. Returns None if matplotlib is missing or no step was logged."""
    if find_spec("matplotlib") is None:
        return None
    lines = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in lines if "terms" in line]
    if not steps:
        return None
    diagnoses = _read_diagnoses(steps)
    with matplotlib_style(CURVE_STYLE | {"font.size": 12, "lines.linewidth": 2}) as Figure:
        figure = Figure(figsize=(11, 8.8 if diagnoses else 4.6), layout="constrained")
        rows = figure.subplots(2 if diagnoses else 1, 2, squeeze=False)
        _draw_main(rows[0][0], steps, lines)
        _draw_auxiliary(rows[0][1], steps)
        if diagnoses:
            _draw_cosines(rows[1][0], diagnoses)
            draw_depths(rows[1][1], [diagnosis for _, diagnosis in diagnoses])
            rows[1][1].set(title="gradient norm by layer, mean over the run", xlabel="layer", ylabel="norm")
        for axes in rows.flat:
            axes.xaxis.get_major_locator().set_params(nbins=6)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=10)
        figure.suptitle(literal_text(_title(folder, steps, lines)))
        save_figure(figure, folder / "curves.png")
    return folder / "curves.png"


def _title(folder: Path, steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> str:
    """The name of the run, its steps and characters, and its final score, if it has one."""
    final = _final_points(lines)
    score = f", valid: {final[-1][1]:.3f} bits per character" if final else ""
    return f"{folder.resolve().name}: {steps[-1]['step']:,} steps, {steps[-1]['characters']:,} characters{score}"


def _draw_main(axes: Any, steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """Draws the main loss of training batches, the validations, and the final score as a separate point, because it
    scores another prefix of the valid part."""
    x = [line["characters"] / 1e6 for line in steps]
    batches = [_nan_if_too_large(line["terms"]["main"]["bits"]) for line in steps]
    axes.plot(x, batches, color=BATCH_COLOUR, label="training batches")
    validations, final = _validation_points(lines), _final_points(lines)
    if validations:
        axes.plot(*zip(*validations, strict=True), "o-", color=VALIDATION_COLOUR, markersize=4, label="validations")
    if final:
        axes.plot(
            *zip(*final, strict=True), "D", color=MAIN_COLOUR, markersize=7, label="score at the end", linestyle="none"
        )
    axes.set(title="next character", xlabel=_X_LABEL, ylabel="bits per character")
    fit_y_axis(axes, [*after_opening(x, batches, x[-1]), *(bits for _, bits in [*validations, *final])])


def _draw_auxiliary(axes: Any, steps: list[dict[str, Any]]) -> None:
    """Draws each auxiliary term minus the main term, in bits, at the steps where it contributes."""
    names = [name for name in dict.fromkeys(n for line in steps for n in line["terms"]) if name != "main"]
    shown = names[:: max(1, -(-len(names) // _MAX_TERMS))]
    values = []
    for name, colour in zip(shown, ordered_colours(len(shown)), strict=True):
        active = [line for line in steps if name in line["terms"]]
        x = [line["characters"] / 1e6 for line in active]
        excess = [_nan_if_too_large(line["terms"][name]["bits"] - line["terms"]["main"]["bits"]) for line in active]
        axes.plot(x, excess, color=colour, label=literal_text(name), marker="." if len(active) == 1 else "")
        values += after_opening(x, excess, steps[-1]["characters"] / 1e6)
    axes.axhline(0, color=MAIN_COLOUR, linewidth=1.2)
    selection = f", {len(shown)} of {len(names)}" if len(shown) < len(names) else ""
    axes.set(title=f"auxiliary losses above the main one{selection}", xlabel=_X_LABEL, ylabel="bits per character")
    fit_y_axis(axes, [0.0, *values])
    if not names:
        axes.text(0.5, 0.5, "there are no auxiliary losses", ha="center", va="bottom", transform=axes.transAxes)


def _nan_if_too_large(bits: float) -> float:
    """`bits`, or NaN, which is drawn as a gap, if no axis can show it."""
    return bits if abs(bits) <= _MAX_BITS else math.nan


def _draw_cosines(axes: Any, diagnoses: list[tuple[float, Diagnosis]]) -> None:
    """Draws the cosine of the gradient of each group of auxiliary terms with the gradient of the main term."""
    groups = dict.fromkeys(name for _, diagnosis in diagnoses for name in diagnosis.groups)
    for index, group in enumerate(groups):
        points = [(x, diagnosis.groups[group].cosine) for x, diagnosis in diagnoses if group in diagnosis.groups]
        axes.plot(*zip(*points, strict=True), marker=".", label=literal_text(group), **curve_style(index))
    axes.axhline(0, color=MAIN_COLOUR, linewidth=1.2)
    axes.set(title="auxiliary gradients against the main one", xlabel=_X_LABEL, ylabel="cosine")
    if not groups:
        axes.text(0.5, 0.5, "there are no auxiliary losses", ha="center", va="bottom", transform=axes.transAxes)


def _read_diagnoses(steps: list[dict[str, Any]]) -> list[tuple[float, Diagnosis]]:
    """The diagnoses in the log, each with the million characters before it; damaged ones are skipped."""
    diagnoses = []
    for line in steps:
        try:
            diagnoses.append((line["characters"] / 1e6, Diagnosis.from_dict(line["diagnosis"])))
        except (KeyError, TypeError, ValueError):
            continue
    return diagnoses


def _validation_points(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Million characters trained on, and bits per character, of every validation."""
    return [
        (line["trained_characters"] / 1e6, _nan_if_too_large(line["bits_per_character"]))
        for line in lines
        if is_validation(line)
    ]


def _final_points(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Million characters trained on, and bits per character, of every final score; a resumed run may have several."""
    scores = [line for line in lines if "split" in line and not is_validation(line)]
    points = [(line["trained_characters"] / 1e6, _nan_if_too_large(line["bits_per_character"])) for line in scores]
    return [point for point in points if math.isfinite(point[1])]
