"""Style, colours and text of all matplotlib figures. matplotlib is imported when a figure is drawn.

The colours can be distinguished with the common kinds of colour blindness.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from charladder.atomic_io import atomic_write
from charladder.errors import UserError

CURVE_COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"  # Okabe and Ito
LINE_STYLES = "-", "--", "-.", ":"
MAIN_COLOUR = "#000000"  # the main loss
VALIDATION_COLOUR = "#d55e00"  # scores of valid text
BATCH_COLOUR = "#56b4e9"  # training batches
WEIGHT_COLORMAP = "Blues"  # weights of losses: 0 is white
CURVE_STYLE = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25}
OPENING_SHARE = 0.05  # of a run: its high losses would flatten the rest of a curve


@contextmanager
def matplotlib_style(style: dict[str, Any] | None = None) -> Iterator[Any]:
    """Yields matplotlib's Figure class, under the rcParams `style`. Raises UserError where matplotlib is missing.

    The names inside an SVG are the same every time.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError('figures need matplotlib: pip install "charladder[plot]"') from None
    with matplotlib.rc_context(cast(Any, {"svg.hashsalt": "charladder", **(style or {})})), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name has letters that the font lacks
        yield Figure


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure atomically, in the format of the path's suffix. An SVG has no date, so the same figure gives the
    same bytes."""
    kind = path.suffix[1:].lower()
    with atomic_write(path) as part:
        figure.savefig(part, dpi=130, format=kind, metadata={"Date": None} if kind == "svg" else None)


def literal_text(name: str) -> str:
    """Text that matplotlib neither reads as a formula (`$`) nor hides from legends (a leading `_`)."""
    text = "".join(c if c.isprintable() else "?" for c in name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def curve_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the curve at an index; the dashes change when the colours are used up."""
    row, column = divmod(index, len(CURVE_COLOURS))
    return {"color": CURVE_COLOURS[column], "linestyle": LINE_STYLES[row % len(LINE_STYLES)]}


def ordered_colours(count: int) -> list[Any]:
    """`count` colours from dark to light, for ordered categories such as layers. The lightest are left out."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * index / max(1, count - 1)) for index in range(count)]


def weight_norm(max_weight: float) -> Any:
    """matplotlib's norm for weights of losses from 0 to `max_weight`.

    It is the square root: the weights of 64 layers are 60 times smaller than that of the last layer, and a linear norm
    would draw them like 0.
    """
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=max_weight)


def after_opening(x: Iterable[float], y: Iterable[float], end: float) -> list[float]:
    """The values of a curve after the first 5% of the run, which ends at x = `end`."""
    return [value for at, value in zip(x, y, strict=True) if at >= OPENING_SHARE * end]


def fit_y_axis(axes: Any, values: Sequence[float]) -> None:
    """Fits the vertical axis to the finite ones of these values; leaves it alone where they do not differ."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    if high > low:
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
