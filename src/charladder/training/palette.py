"""The colours of all pictures: one palette for one quantity, chosen for the common kinds of colour blindness."""

from typing import Any

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#7f7f7f"  # Okabe and Ito
MAIN, VALID, BATCHES = "#000000", "#d55e00", "#56b4e9"  # the main loss, scores of valid text, training batches
WEIGHTS = "Blues"  # matplotlib's colormap for weights of losses: 0 is white


def ordered(count: int) -> list[Any]:
    """`count` colours from dark to light, for ordered categories such as layers. The lightest are left out."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * place / max(1, count - 1)) for place in range(count)]


def scale_of_weights(most: float) -> Any:
    """matplotlib's norm for weights of losses from 0 to `most`: the square root, for the weights of 64 layers are 60
    times smaller than that of the last, and in proportion they would look like 0."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=most)
