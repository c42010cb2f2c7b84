"""The drawing of gradient norms by layer as SVG: a panel for each row and column, a colour for each line."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.forest_figure import STYLE
from benchmarks.norms_file import NormsFile
from benchmarks.norms_numbers import ArmNorms, Profile, order_values
from charladder.plotting import CURVE_COLOURS, CURVE_STYLE, literal_text, matplotlib_style, save_figure

FLOOR = 1e-8  # smaller norms, and 0, are drawn here: a logarithmic axis has no place for 0
FLOOR_NOTE = "below 1e-8, or exactly 0: drawn at 1e-8"
# The round dots are wide, and above the other lines: without further losses, the same network has the same norms.
FIRST: dict[str, Any] = {"linestyle": "--", "linewidth": 1.4}
LATE: dict[str, Any] = {"linestyle": "-", "linewidth": 1.4}
MAIN: dict[str, Any] = {"linestyle": (0, (0.1, 2.2)), "linewidth": 2.4, "dash_capstyle": "round", "zorder": 3}
NO_RUNS = "no runs"
_GREY = CURVE_COLOURS[7]


def draw_norms(about: NormsFile, arms: Sequence[ArmNorms], path: Path) -> None:
    """Draws the arms. All panels have the same vertical axis."""
    rows, columns, lines = (order_values(about, arms, index) for index in range(3))
    with matplotlib_style({**STYLE, **CURVE_STYLE}) as Figure:
        figure = Figure(figsize=(max(6.0, 1.2 + 2.6 * len(columns)), 2.2 + 2.1 * len(rows)), layout="constrained")
        panels = figure.subplots(len(rows), len(columns), squeeze=False, sharey=True)
        for row, of_row in zip(rows, panels, strict=True):
            for column, axes in zip(columns, of_row, strict=True):
                shown = [arm for arm in arms if arm.place[:2] == (row, column)]
                _draw_panel(axes, shown, lines)
            title = [about.label(about.settings[0], row)] if about.settings[0] else []
            of_row[0].set_ylabel("\n".join(map(literal_text, [*title, "norm of the gradient"])))
        for column, axes in zip(columns, panels[0], strict=True):
            axes.set_title(literal_text(about.label(about.settings[1], column)), fontsize=9, fontweight="bold")
        for axes in panels[-1]:
            axes.set_xlabel("layer")
        profiles = [profile for arm in arms for profile in _profiles(arm)]
        if any(_is_clipped(profile) for profile in profiles):
            panels[0, 0].set_ylim(bottom=FLOOR / 3)
        figure.suptitle(literal_text(about.title), fontsize=11, fontweight="bold")
        handles = _legend(about, arms, lines)
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        save_figure(figure, path)


def first_measurement(arms: Iterable[ArmNorms]) -> str:
    """What the first measurement is: before the first step, or later."""
    progress = max(arm.progress for arm in arms)
    return "at initialisation" if progress == 0 else f"first measurement, after up to {progress:.2g} of training"


def _draw_panel(axes: Any, arms: Sequence[ArmNorms], lines: Sequence[str]) -> None:
    axes.set_yscale("log")
    if not arms:
        axes.text(0.5, 0.5, NO_RUNS, transform=axes.transAxes, ha="center", color=_GREY)
    axes.set_xticks(_layer_ticks(max((arm.layers for arm in arms), default=0)))
    for arm in sorted(arms, key=lambda arm: lines.index(arm.place[2])):
        colour = _colour(lines, arm.place[2])
        # A line that is below others is wider, so that it is seen where they coincide.
        below = {**LATE, "linewidth": LATE["linewidth"] + 0.8 * (len(lines) - 1 - lines.index(arm.place[2]))}
        if arm.late is not None:
            _draw_profile(axes, arm.late, colour, below)
            if arm.late.seeds > 1:
                low, high = (list(map(_clip, ends)) for ends in (arm.late.low, arm.late.high))
                axes.fill_between(_layers(arm.late), low, high, color=colour, alpha=0.15, lw=0)
        _draw_profile(axes, arm.first, colour, FIRST)
        if arm.first_main is not None and arm.main_differs:
            _draw_profile(axes, arm.first_main, colour, MAIN)


def _draw_profile(axes: Any, profile: Profile, colour: str, style: dict[str, Any]) -> None:
    """Means by layer; a triangle where they are below the floor."""
    marker = "o" if len(profile.mean) == 1 else ""
    axes.plot(_layers(profile), list(map(_clip, profile.mean)), color=colour, marker=marker, **style)
    clipped = [layer for layer, norm in zip(_layers(profile), profile.mean, strict=True) if norm < FLOOR]
    if clipped:
        axes.plot(clipped, [FLOOR] * len(clipped), "v", color=colour, markersize=5)


def _layer_ticks(layers: int) -> list[int]:
    """All layers of a small network; of others the first, and those at quarters of the depth."""
    if layers <= 8:
        return list(range(1, layers + 1))
    return [1, *(layers * quarter // 4 for quarter in range(1, 5))]


def _layers(profile: Profile) -> list[int]:
    return list(range(1, len(profile.mean) + 1))


def _clip(norm: float) -> float:
    return max(norm, FLOOR)


def _is_clipped(profile: Profile) -> bool:
    return min(profile.mean) < FLOOR


def _colour(lines: Sequence[str], line: str) -> str:
    return CURVE_COLOURS[lines.index(line) % len(CURVE_COLOURS)]


def _profiles(arm: ArmNorms) -> list[Profile]:
    """The profiles of an arm that the figure shows."""
    alone = arm.first_main if arm.main_differs else None
    return [profile for profile in (arm.first, alone, arm.late) if profile is not None]


def _legend(about: NormsFile, arms: Sequence[ArmNorms], lines: Sequence[str]) -> list[Any]:
    """The colours of the lines, and the styles and marks that the figure has."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    first = first_measurement(arms)
    handles: list[Any] = []
    if about.settings[2] is not None:
        for line in lines:
            label = literal_text(about.label(about.settings[2], line))
            handles.append(Patch(color=_colour(lines, line), label=label))
    if any(arm.late is not None for arm in arms):
        handles.append(Line2D([], [], color="black", **LATE, label="mean over the last third of training"))
    if any(arm.late is not None and arm.late.seeds > 1 for arm in arms):
        handles.append(Patch(color="black", alpha=0.15, lw=0, label="smallest to largest of the seeds, last third"))
    handles.append(Line2D([], [], color="black", **FIRST, label=first))
    if any(arm.main_differs for arm in arms):
        label = f"{first}, main loss alone (where it differs)"
        handles.append(Line2D([], [], color="black", **MAIN, label=label))
    if any(_is_clipped(profile) for arm in arms for profile in _profiles(arm)):
        handles.append(Line2D([], [], color="black", marker="v", linestyle="", markersize=5, label=FLOOR_NOTE))
    return handles
