"""The drawing of a forest plot as SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.forest_file import ForestFile
from benchmarks.forest_numbers import Group, Line, Pooled
from charladder.plotting import CURVE_COLOURS, literal_text, matplotlib_style, save_figure
from charladder.studies.number_format import format_interval
from charladder.studies.statistics import MIN_SEEDS_FOR_CLAIM, SIGNIFICANCE_LEVEL

SHOWN, NOT_SHOWN, POOLED, BAND = CURVE_COLOURS[0], CURVE_COLOURS[7], CURVE_COLOURS[1], "#e4e4e4"
STYLE = {
    # The background is opaque: a page with a dark background shows the black text on white.
    "figure.facecolor": "white", "savefig.facecolor": "white", "axes.facecolor": "white", "svg.fonttype": "path",
    "font.family": "DejaVu Sans", "font.size": 9, "axes.grid": False,
}  # fmt: skip


def draw_forest(about: ForestFile, groups: Sequence[Group], path: Path) -> None:
    """Draws a row for each line, under the titles of the groups."""
    rows: list[str | Line | Pooled] = [row for group in groups for row in (group.title, *group.lines)]
    lines = [row for row in rows if not isinstance(row, str)]
    with matplotlib_style(STYLE) as Figure:
        figure = Figure(figsize=(9, 1.9 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        low, high = about.x_limits or _x_limits(lines)
        axes.set(xlim=(low, high), ylim=(len(rows) - 0.4, -0.6))
        for y, row in enumerate(rows):
            if isinstance(row, Line):
                _draw_line(axes, y, row)
            elif isinstance(row, Pooled):
                _draw_pooled(axes, y, row)
        axes.axvline(0, color="black", linewidth=1, zorder=1)
        axes.set_yticks(range(len(rows)), [literal_text(_label(row)) for row in rows])
        values = axes.twinx()
        values.set(ylim=axes.get_ylim(), yticks=range(len(rows)), yticklabels=[_value(row) for row in rows])
        for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("bold" if isinstance(row, str) else "normal")
        for each in (axes, values):
            each.spines[["top", "right", "left"]].set_visible(False)
            each.tick_params(axis="y", length=0, pad=8)
        axes.set_xlabel(literal_text(about.x_label))
        figure.suptitle(literal_text(about.title), fontsize=11, fontweight="bold")
        figure.legend(handles=_legend(lines), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        save_figure(figure, path)


def _label(row: str | Line | Pooled) -> str:
    return row if isinstance(row, str) else row.label


def _value(row: str | Line | Pooled) -> str:
    """The numbers at the right edge of a row."""
    if isinstance(row, str):
        return ""
    if isinstance(row, Pooled):
        return f"{row.result.mean:+.4f} ({_range(row.result.low, row.result.high)}), {row.result.studies} texts"
    one = row.difference
    interval = f" ({format_interval(one, '+.4f')})" if one.low is not None else ""
    return f"{one.mean:+.4f}{interval}, n = {len(one.seeds)}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.4f} to {high:+.4f}"


def _x_limits(lines: Sequence[Line | Pooled]) -> tuple[float, float]:
    """Limits that show the intervals on each text, their smallest detectable effects and 0. The interval of a mean over
    two texts may reach beyond them."""
    ends = [0.0]
    for line in lines:
        if isinstance(line, Line):
            one = line.difference
            ends += [end for end in (one.mean, one.low, one.high) if end is not None]
            ends += [end for size in (line.smallest, line.effect) if size is not None for end in (-size, size)]
        else:
            ends.append(line.result.mean)
    reach = max(ends) - min(ends) or 1.0
    return min(ends) - 0.04 * reach, max(ends) + 0.04 * reach


def _draw_line(axes: Any, y: int, line: Line) -> None:
    """Band, smallest detectable effect, interval and mean of a comparison on one text."""
    one, colour = line.difference, SHOWN if line.is_shown else NOT_SHOWN
    if line.effect is not None:
        axes.fill_between([-line.effect, line.effect], y - 0.5, y + 0.5, color=BAND, linewidth=0, zorder=0)
    if line.smallest is not None:
        ends = [-line.smallest, line.smallest]
        axes.plot(ends, [y, y], "|", color="black", markersize=9, markeredgewidth=1, zorder=2)
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [y, y], color=colour, linewidth=2, zorder=3)
        _mark_ends(axes, y, one.low, one.high, colour)
    face = colour if line.is_shown else "white"
    axes.plot(one.mean, y, "o", color=colour, markerfacecolor=face, markersize=6, zorder=4)


def _draw_pooled(axes: Any, y: int, line: Pooled) -> None:
    """A diamond from end to end of the interval of the mean, and a line for the prediction."""
    one = line.result
    if one.prediction_low is not None and one.prediction_high is not None:
        axes.plot([one.prediction_low, one.prediction_high], [y, y], color=POOLED, linewidth=1, zorder=2)
        _mark_ends(axes, y, one.prediction_low, one.prediction_high, POOLED)
    if one.low is not None and one.high is not None:
        axes.fill([one.low, one.mean, one.high, one.mean], [y, y - 0.3, y, y + 0.3], color=POOLED, lw=0, zorder=3)
        _mark_ends(axes, y, one.low, one.high, POOLED)


def _mark_ends(axes: Any, y: int, low: float, high: float, colour: str) -> None:
    """An arrow at the edge of the plot, where an interval goes on beyond it."""
    left, right = axes.get_xlim()
    for outside, edge, marker in ((low < left, left, "<"), (high > right, right, ">")):
        if outside:
            axes.plot(edge, y, marker, color=colour, markersize=6, clip_on=False, zorder=4)


def _legend(lines: Sequence[Line | Pooled]) -> list[Any]:
    """The marks that the plot has."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    def mark(marker: str, label: str, colour: str, line: float = 2.0, face: str | None = None, size: int = 6) -> Any:
        style = {"linewidth": line, "markerfacecolor": face or colour, "markersize": size}
        return Line2D([], [], color=colour, marker=marker, label=label, **style)

    of_texts = [line for line in lines if isinstance(line, Line)]
    interval, seeds = "mean and 95% interval", MIN_SEEDS_FOR_CLAIM
    handles = []
    if any(line.is_shown for line in of_texts):
        handles.append(mark("o", f"{interval}, shown: p < {SIGNIFICANCE_LEVEL} (Holm), at least {seeds} seeds", SHOWN))
    if any(not line.is_shown for line in of_texts):
        handles.append(mark("o", f"{interval}, not shown or fewer than {seeds} seeds", NOT_SHOWN, face="white"))
    if any(line.smallest is not None for line in of_texts):
        handles.append(mark("|", "smallest detectable difference (power 80%)", "black", line=0, size=9))
    if any(line.effect is not None for line in of_texts):
        handles.append(Patch(color=BAND, label="smaller than what would have mattered"))
    if any(isinstance(line, Pooled) for line in lines):
        label = "mean over texts, 95% interval; line: 95% prediction for another text"
        handles.append(mark("D", label, POOLED, line=1))
    return handles
