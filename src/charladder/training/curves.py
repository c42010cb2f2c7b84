"""curves.png: bits per character and every term of the loss over a run."""

from pathlib import Path
from typing import Any

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
    with matplotlib.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        main, terms = figure.subplots(1, 2)
        x = [line["characters"] / 1e6 for line in steps]
        main.plot(x, [line["terms"]["main"]["bits"] for line in steps], color="#9bb4cc", label="training batch")
        valid = valid_points(lines)
        if valid:
            main.plot(*zip(*valid, strict=True), "o-", color="#c0392b", label="valid")
        names = list(dict.fromkeys(name for line in steps for name in line["terms"]))
        every = -(-len(names) // SHOWN)
        shown = [n for place, n in enumerate(names) if n == "main" or place % every == 0]
        colours = matplotlib.colormaps["viridis_r"].resampled(len(shown) + 1)
        for place, name in enumerate(shown):
            points = [
                (c, line["terms"][name]["bits"]) for c, line in zip(x, steps, strict=True) if name in line["terms"]
            ]
            style = {"color": "#c0392b", "linewidth": 2.2} if name == "main" else {"color": colours(place)}
            terms.plot(*zip(*points, strict=True), label=name, **style)
        for axes, title in ((main, "next character"), (terms, "terms of the loss, while they contribute")):
            axes.set(title=title, xlabel="million characters", ylabel="bits per character")
            axes.grid(alpha=0.25)
            axes.legend(fontsize=7, ncols=2)
        with beside(folder / "curves.png") as part:
            figure.savefig(part, dpi=130, format="png")
    return folder / "curves.png"


def valid_points(lines: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Million characters trained on, and bits per character, of every scoring of the valid part."""
    return [(line["trained_characters"] / 1e6, line["bits_per_character"]) for line in lines if "split" in line]
