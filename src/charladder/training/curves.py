"""curves.png: bits per character, what each auxiliary loss is above the main one, and gradients, over a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charladder.atomic_io import atomic_write
from charladder.auxiliary import Diagnosis, draw_depths
from charladder.training.metrics import is_validation, read_metrics
from charladder.training.palette import BATCHES, COLOURS, MAIN, VALID, ordered

SHOWN = 8  # auxiliary terms that are drawn
OPENING = 0.05  # share of the run whose losses may leave the picture at the top
HIGHEST = 1e6  # bits; of more, which only a damaged file has, no axis can be made
MILLIONS = "million characters"


def draw_curves(folder: Path) -> Path | None:
    """Draws `folder/curves.png` from its metrics.jsonl; None where matplotlib is missing or nothing was logged."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = read_metrics(folder / "metrics.jsonl")
    steps = [line for line in lines if "terms" in line]
    if not steps:
        return None
    diagnoses = diagnosed(steps)
    style: Any = {"axes.spines.top": False, "axes.spines.right": False, "font.size": 12, "lines.linewidth": 2}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(11, 8.8 if diagnoses else 4.6), layout="constrained")
        rows = figure.subplots(2 if diagnoses else 1, 2, squeeze=False)
        draw_main(rows[0][0], steps, lines)
        draw_differences(rows[0][1], steps)
        if diagnoses:
            draw_cosines(rows[1][0], diagnoses)
            draw_depths(rows[1][1], [diagnosis for _, diagnosis in diagnoses])
            rows[1][1].set(title="gradient norm by layer, mean over the run", xlabel="layer", ylabel="norm")
        for axes in rows.flat:
            axes.grid(alpha=0.25)
            axes.xaxis.get_major_locator().set_params(nbins=6)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=10)
        figure.suptitle(literal(title(folder, steps, lines)))
        with atomic_write(folder / "curves.png") as part:
            figure.savefig(part, dpi=130, format="png")
    return folder / "curves.png"


def title(folder: Path, steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> str:
    """The name of the run, how long it has trained, and its score where it has one."""
    final = final_points(lines)
    scored = f", valid: {final[-1][1]:.3f} bits per character" if final else ""
    return f"{folder.resolve().name}: {steps[-1]['step']:,} steps, {steps[-1]['characters']:,} characters{scored}"


def literal(text: str) -> str:
    """Text with dollar signs escaped, which would begin a formula, and unprintable characters replaced by `?`."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("$", r"\$")


def draw_main(axes: Any, steps: list[dict[str, Any]], lines: list[dict[str, Any]]) -> None:
    """The next character: training batches, the validations, and by itself the score at the end, which is of another
    stretch of the valid part."""
    x = [line["characters"] / 1e6 for line in steps]
    batches = [drawable(line["terms"]["main"]["bits"]) for line in steps]
    axes.plot(x, batches, color=BATCHES, label="training batches")
    validations, final = valid_points(lines), final_points(lines)
    if validations:
        axes.plot(*zip(*validations, strict=True), "o-", color=VALID, markersize=4, label="validations")
    if final:
        axes.plot(*zip(*final, strict=True), "D", color=MAIN, markersize=7, label="score at the end", linestyle="none")
    axes.set(title="next character", xlabel=MILLIONS, ylabel="bits per character")
    later = [y for place, y in zip(x, batches, strict=True) if place >= OPENING * x[-1]]
    set_limits(axes, [*later, *(bits for _, bits in [*validations, *final])])


def set_limits(axes: Any, shown: Sequence[float]) -> None:
    """Fits the vertical axis to these values alone, where they are numbers and differ."""
    finite = [value for value in shown if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))


def draw_differences(axes: Any, steps: list[dict[str, Any]]) -> None:
    """How many bits each auxiliary term is above the main one, while it contributes."""
    names = [name for name in dict.fromkeys(n for line in steps for n in line["terms"]) if name != "main"]
    shown = names[:: max(1, -(-len(names) // SHOWN))]
    values = []
    for name, colour in zip(shown, ordered(len(shown)), strict=True):
        own = [line for line in steps if name in line["terms"]]
        x = [line["characters"] / 1e6 for line in own]
        above = [drawable(line["terms"][name]["bits"] - line["terms"]["main"]["bits"]) for line in own]
        axes.plot(x, above, color=colour, label=literal(name), marker="." if len(own) == 1 else "")
        values += [y for place, y in zip(x, above, strict=True) if place >= OPENING * steps[-1]["characters"] / 1e6]
    axes.axhline(0, color=MAIN, linewidth=1.2)
    few = f", {len(shown)} of {len(names)}" if len(shown) < len(names) else ""
    axes.set(title=f"auxiliary losses above the main one{few}", xlabel=MILLIONS, ylabel="bits per character")
    set_limits(axes, [0.0, *values])
    if not names:
        axes.text(0.5, 0.5, "there are no auxiliary losses", ha="center", va="bottom", transform=axes.transAxes)


def drawable(bits: float) -> float:
    """NaN, which is drawn as a gap, for what no axis can show."""
    return bits if abs(bits) <= HIGHEST else math.nan


def draw_cosines(axes: Any, diagnoses: list[tuple[float, Diagnosis]]) -> None:
    """Whether each group of auxiliary terms pulls with the main one (1), across (0) or against it (-1)."""
    groups = dict.fromkeys(name for _, diagnosis in diagnoses for name in diagnosis.groups)
    for place, group in enumerate(groups):
        points = [(x, one.groups[group].cosine) for x, one in diagnoses if group in one.groups]
        axes.plot(*zip(*points, strict=True), ".-", label=literal(group), color=COLOURS[place % len(COLOURS)])
    axes.axhline(0, color=MAIN, linewidth=1.2)
    axes.set(title="auxiliary gradients against the main one", xlabel=MILLIONS, ylabel="cosine")


def diagnosed(steps: list[dict[str, Any]]) -> list[tuple[float, Diagnosis]]:
    """Million characters, and the diagnosis made there; what is damaged is left out."""
    found = []
    for line in steps:
        try:
            found.append((line["characters"] / 1e6, Diagnosis.from_dict(line["diagnosis"])))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def valid_points(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Million characters trained on, and bits per character, of every validation, all of one stretch."""
    return [
        (line["trained_characters"] / 1e6, drawable(line["bits_per_character"]))
        for line in lines
        if is_validation(line)
    ]


def final_points(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """The same of every score at the end of training, of a stretch that may be another each time."""
    scored = [line for line in lines if "split" in line and not is_validation(line)]
    points = [(line["trained_characters"] / 1e6, drawable(line["bits_per_character"])) for line in scored]
    return [point for point in points if math.isfinite(point[1])]
