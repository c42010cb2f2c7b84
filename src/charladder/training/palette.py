"""The colours of all pictures: one palette for one quantity. Told apart by most eyes with a weakness for colours."""

from typing import Any

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"  # Okabe and Ito
MAIN, VALID, BATCHES = "#000000", "#d55e00", "#56b4e9"  # the main loss, scores of valid text, training batches
WEIGHTS = "Blues"  # matplotlib's colormap for weights of losses: 0 is white


def ordered(count: int) -> list[Any]:
    """Colours of `count` things in an order, such as rungs: from dark to light, without the palest."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * place / max(1, count - 1)) for place in range(count)]
