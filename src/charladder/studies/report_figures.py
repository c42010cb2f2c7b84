"""The pictures of a report, as SVG that can stand inside a page: they take its colours and ask for nothing outside."""

import io
import re
from html import escape
from typing import Any

import numpy as np

from charladder.plotting import (
    CURVE_COLOURS,
    CURVE_STYLE,
    after_opening,
    curve_style,
    fit_y_axis,
    literal_text,
    matplotlib_style,
)
from charladder.studies.report import StudyReport
from charladder.studies.results import Curve
from charladder.studies.statistics import confidence_band, is_significant

INK = "#123456"  # in matplotlib's hands; the page's own colour of text in the end
STYLE = CURVE_STYLE | {
    "axes.edgecolor": INK, "axes.labelcolor": INK,
    "text.color": INK, "xtick.color": INK, "ytick.color": INK, "svg.fonttype": "none", "font.size": 10,
    "legend.framealpha": 0.0,
}  # fmt: skip
POINTS = 50  # of a training curve: means of neighbouring logged steps


def forest_plot(report: StudyReport) -> str:
    """The difference of each arm to the baseline with its 95% interval, a row an arm; left of 0 is better."""
    shown = [(one, one.difference) for one in report.arms if one.difference is not None]
    if not shown:
        return ""
    with matplotlib_style(STYLE | {"svg.hashsalt": "forest"}) as Figure:
        figure = Figure(figsize=(7.2, 1.2 + 0.4 * len(shown)), layout="constrained")
        axes = figure.subplots()
        for row, (one, difference) in enumerate(shown):
            known = difference.low is not None and difference.high is not None
            colour = CURVE_COLOURS[0] if is_significant(difference, one.p_holm) else CURVE_COLOURS[7]
            if known:
                axes.plot([difference.low, difference.high], [row, row], color=colour, linewidth=2.5)
            axes.plot(difference.mean, row, "o" if known else "D", color=colour, markersize=7)
        axes.axvline(0, color=INK, linewidth=1)
        axes.set_yticks(range(len(shown)), [literal_text(one.arm.name) for one, _ in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel(f"bits per character less those of {literal_text(report.plan.baseline)} (left is better)")
        axes.grid(visible=False, axis="y")
        return svg(figure, "forest", "Difference of each arm to the baseline in bits per character, with 95% intervals")


def learning_curves(report: StudyReport, which: str) -> str:
    """The valid stretch or the training batches (`which`: valid, train) over characters, with 95% bands."""
    with matplotlib_style(STYLE | {"svg.hashsalt": which}) as Figure:
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        handles, names = [], []
        later: list[float] = []  # after the opening, whose losses would flatten all others
        for place, one in enumerate(report.arms):
            curves = [
                run.curves.validations if which == "valid" else smooth(run.curves.terms["main"]) for run in one.runs
            ]
            found = confidence_band([(curve.characters_P / 1e6, curve.bits_P) for curve in curves])
            if found is None:
                continue
            marker = "." if len(found.x_P) < 30 else ""
            handles += axes.plot(found.x_P, found.mean_P, marker=marker, **curve_style(place))
            names.append(literal_text(f"{one.arm.name} ({found.n})"))
            for line_P in (found.mean_P, found.low_P, found.high_P):
                later += [] if line_P is None else after_opening(found.x_P, line_P, found.x_P[-1])
            if found.low_P is not None and found.high_P is not None:
                edges = {
                    "edgecolor": curve_style(place)["color"],
                    "linestyle": curve_style(place)["linestyle"],
                    "linewidth": 0.8,
                }
                axes.fill_between(
                    found.x_P, found.low_P, found.high_P, color=curve_style(place)["color"], alpha=0.12, lw=0
                )
                axes.fill_between(found.x_P, found.low_P, found.high_P, facecolor="none", alpha=0.6, **edges)
        if not handles:
            return ""
        figure.legend(handles, names, fontsize=9, loc="outside lower center", ncols=2)  # beside the lines, not on them
        axes.xaxis.get_major_locator().set_params(nbins=5)
        if which == "train":
            fit_y_axis(axes, later)
        axes.set(xlabel="million characters", ylabel="bits per character")
        words = {"valid": "scores of a stretch of the valid part", "train": "training batches, smoothed"}[which]
        return svg(figure, which, f"Bits per character over characters trained on, by arm, with 95% bands: {words}")


def smooth(curve: Curve) -> Curve:
    """Means of neighbouring points, at most POINTS of them."""
    groups = np.array_split(np.arange(len(curve.bits_P)), min(POINTS, max(1, len(curve.bits_P))))
    return Curve(*(np.array([x[group].mean() for group in groups if len(group)]) for x in vars(curve).values()))


def norms_by_depth(report: StudyReport) -> str:
    """The mean norm of the gradient by layer, in the first, second and last third of training; a panel an arm."""
    shown = [
        (one.arm.name, thirds([norm for run in one.runs for norm in run.curves.gradient_norms])) for one in report.arms
    ]
    shown = [(name, found) for name, found in shown if found]
    if not shown:
        return ""
    with matplotlib_style(STYLE | {"svg.hashsalt": "norms"}) as Figure:
        figure = Figure(figsize=(5.2, 1.2 + 2.2 * len(shown)), layout="constrained")
        panels = figure.subplots(len(shown), 1, squeeze=False, sharey=True)[:, 0]
        for axes, (name, found) in zip(panels, shown, strict=True):
            for place, (when, norms) in enumerate(found.items()):
                axes.plot(
                    [int(layer) for layer in norms], list(norms.values()), marker="o", label=when, **curve_style(place)
                )
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set(yscale="log", ylabel="norm", title=literal_text(name))
            axes.legend(fontsize=9)
            panels[-1].set_xlabel("layer")
        return svg(figure, "norms", "Norm of the gradient by layer, early, mid and late in training, by arm")


def thirds(measured: list[tuple[float, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Means by layer of the norms measured in each third of training; a third without any is left out."""
    found: dict[str, dict[str, float]] = {}
    for place, when in enumerate(("early", "mid", "late")):
        norms = [norm for progress, norm in measured if min(2, int(3 * progress)) == place]
        layers = dict.fromkeys(layer for norm in norms for layer in norm)
        if layers:
            found[when] = {
                layer.removeprefix("layer"): sum(n[layer] for n in norms if layer in n) / sum(layer in n for n in norms)
                for layer in layers
            }
    return found


def svg(figure: Any, name: str, about: str) -> str:
    """A figure as an element of a page: names of its own, no metadata, and text in the page's colour."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    return text.replace(INK, "currentColor").replace("<svg", f'<svg role="img" aria-label="{escape(about)}"', 1)
