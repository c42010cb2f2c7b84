"""The figures of report.html, as SVG elements that use the page's text colour and load nothing.

Shapes: P points of a curve.
"""

import io
import re
from html import escape
from typing import Any

from charladder.plotting import (
    CURVE_COLOURS,
    CURVE_STYLE,
    after_opening,
    curve_style,
    fit_y_axis,
    literal_text,
    matplotlib_style,
)
from charladder.studies.report import CurveFigure, StudyReport
from charladder.studies.statistics import confidence_band, is_significant

_TEXT_COLOUR = "#123456"  # in matplotlib; replaced by the page's text colour in the SVG
_STYLE = CURVE_STYLE | {
    "axes.edgecolor": _TEXT_COLOUR, "axes.labelcolor": _TEXT_COLOUR, "text.color": _TEXT_COLOUR,
    "xtick.color": _TEXT_COLOUR, "ytick.color": _TEXT_COLOUR, "svg.fonttype": "none",
    "font.size": 10, "legend.framealpha": 0.0,
}  # fmt: skip
_CLAIM_COLOUR, _NO_CLAIM_COLOUR = CURVE_COLOURS[0], CURVE_COLOURS[7]


def forest_plot(report: StudyReport) -> str:
    """The difference of each arm from the baseline with its 95% interval, one row for each arm."""
    rows = [(one, one.difference) for one in report.arms if one.difference is not None]
    if not rows:
        return ""
    with matplotlib_style(_STYLE | {"axes.grid.axis": "x"}) as Figure:
        figure = Figure(figsize=(7.2, 1.2 + 0.4 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row, (one, difference) in enumerate(rows):
            has_interval = difference.low is not None and difference.high is not None
            colour = _CLAIM_COLOUR if is_significant(difference, one.p_holm) else _NO_CLAIM_COLOUR
            if has_interval:
                axes.plot([difference.low, difference.high], [row, row], color=colour, linewidth=2.5)
            axes.plot(difference.mean, row, "o" if has_interval else "D", color=colour, markersize=7)
        axes.axvline(0, color=_TEXT_COLOUR, linewidth=1)
        axes.set_yticks(range(len(rows)), [literal_text(one.name) for one, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        metric, side = report.metric, "right" if report.metric.higher_is_better else "left"
        axes.set_xlabel(literal_text(f"{metric.name}, minus {report.baseline} ({side} is better)"))
        description = f"Difference of each arm from the baseline in {metric.name}, with 95% intervals"
        return _to_svg(figure, "forest", description)


def learning_curves(one: CurveFigure) -> str:
    """Curves with 95% bands, by arm."""
    with matplotlib_style(_STYLE) as Figure:
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        axes = figure.subplots()
        handles, labels = [], []
        later_values: list[float] = []  # without the opening
        for index, (name, curves) in enumerate(one.curves.items()):
            band = confidence_band(curves)
            if band is None:
                continue
            style, x_P = curve_style(index), band.x_P
            handles += axes.plot(x_P, band.mean_P, marker="." if len(x_P) < 30 else "", **style)
            labels.append(literal_text(f"{name} ({band.n})"))
            later_values += after_opening(x_P, band.mean_P, x_P[-1])
            if band.low_P is not None and band.high_P is not None:
                edges = {"edgecolor": style["color"], "linestyle": style["linestyle"], "linewidth": 0.8}
                axes.fill_between(x_P, band.low_P, band.high_P, color=style["color"], alpha=0.12, lw=0)
                axes.fill_between(x_P, band.low_P, band.high_P, facecolor="none", alpha=0.6, **edges)
                later_values += after_opening(x_P, band.low_P, x_P[-1]) + after_opening(x_P, band.high_P, x_P[-1])
        if not handles:
            return ""
        figure.legend(handles, labels, fontsize=9, loc="outside lower center", ncols=2)
        axes.xaxis.get_major_locator().set_params(nbins=5)
        if one.fit_to_end:
            fit_y_axis(axes, later_values)
        axes.set(xlabel=literal_text(one.x_label), ylabel=literal_text(one.y_label))
        return _to_svg(figure, one.name, one.description)


def gradient_norms_by_layer(report: StudyReport) -> str:
    """The mean norm of the gradient by layer in each third of training, one panel for each arm."""
    arms = {one.name: one.training.gradient_norms for one in report.arms if one.training is not None}
    arms = {name: norms for name, norms in arms.items() if norms}
    if not arms:
        return ""
    with matplotlib_style(_STYLE) as Figure:
        figure = Figure(figsize=(5.2, 1.2 + 2.2 * len(arms)), layout="constrained")
        panels = figure.subplots(len(arms), 1, squeeze=False, sharey=True)[:, 0]
        for axes, (name, by_third) in zip(panels, arms.items(), strict=True):
            for index, (third, norms) in enumerate(by_third.items()):
                layers = [int(layer) for layer in norms]
                axes.plot(layers, list(norms.values()), marker="o", label=third, **curve_style(index))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set(yscale="log", ylabel="norm", title=literal_text(name))
            axes.legend(fontsize=9)
        panels[-1].set_xlabel("layer")
        return _to_svg(figure, "norms", "Norm of the gradient by layer, early, mid and late in training, by arm")


def _to_svg(figure: Any, name: str, description: str) -> str:
    """The figure as an SVG element for a page: its ids begin with `name`, and it has no metadata or namespaces."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = svg.replace(_TEXT_COLOUR, "currentColor")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)
