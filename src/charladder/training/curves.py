"""curves.png: bits per character, every term of the loss, and how the terms get on, over a run."""

from pathlib import Path
from typing import Any

from charladder.auxiliary import Diagnosis, draw_depths
from charladder.training.files import beside
from charladder.training.metrics import read_metrics

SHOWN = 12


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
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 8.4 if diagnoses else 4.2), layout="constrained")
        rows = figure.subplots(2 if diagnoses else 1, 2, squeeze=False)
        colours = matplotlib.colormaps["viridis_r"]
        draw_losses(rows[0], steps, valid_points(lines), colours)
        if diagnoses:
            draw_cosines(rows[1][0], diagnoses)
            draw_depths(rows[1][1], [diagnosis for _, diagnosis in diagnoses])
            rows[1][1].set(title="gradient by rung, mean over the run", xlabel="rung", ylabel="norm")
        for axes in rows.flat:
            axes.grid(alpha=0.25)
            axes.legend(fontsize=7, ncols=2)
        with beside(folder / "curves.png") as part:
            figure.savefig(part, dpi=130, format="png")
    return folder / "curves.png"


def draw_losses(axes: Any, steps: list[dict[str, Any]], valid: list[tuple[float, float]], colours: Any) -> None:
    """The next character on the first of two axes, and all terms on the second."""
    main, terms = axes
    x = [line["characters"] / 1e6 for line in steps]
    main.plot(x, [line["terms"]["main"]["bits"] for line in steps], color="#9bb4cc", label="training batch")
    if valid:
        main.plot(*zip(*valid, strict=True), "o-", color="#c0392b", label="valid")
    names = list(dict.fromkeys(name for line in steps for name in line["terms"]))
    every = -(-len(names) // SHOWN)
    shown = [n for place, n in enumerate(names) if n == "main" or place % every == 0]
    shades = colours.resampled(len(shown) + 1)
    for place, name in enumerate(shown):
        points = [(c, line["terms"][name]["bits"]) for c, line in zip(x, steps, strict=True) if name in line["terms"]]
        style = {"color": "#c0392b", "linewidth": 2.2} if name == "main" else {"color": shades(place)}
        terms.plot(*zip(*points, strict=True), label=name, **style)
    main.set(title="next character", xlabel="million characters", ylabel="bits per character")
    terms.set(
        title="terms of the loss, while they contribute", xlabel="million characters", ylabel="bits per character"
    )


def draw_cosines(axes: Any, diagnoses: list[tuple[float, Diagnosis]]) -> None:
    """Whether each group of auxiliary terms pulls with the main one (1), across (0) or against it (-1)."""
    for group in dict.fromkeys(name for _, diagnosis in diagnoses for name in diagnosis.groups):
        points = [(x, one.groups[group].cosine) for x, one in diagnoses if group in one.groups]
        axes.plot(*zip(*points, strict=True), ".-", label=group)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(title="auxiliary gradients against the main one", xlabel="million characters", ylabel="cosine")


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
    """Million characters trained on, and bits per character, of every scoring of the valid part."""
    return [(line["trained_characters"] / 1e6, line["bits_per_character"]) for line in lines if "split" in line]
