"""The colours of figures under simulated colour blindness (Machado et al. 2009, severity 1)."""

from itertools import combinations

import numpy as np
import pytest

from charladder.plotting import BATCH_COLOUR, CURVE_COLOURS, MAIN_COLOUR, VALIDATION_COLOUR, ordered_colours

DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def lab(colour: str, kind: str) -> np.ndarray:
    """CIELAB of a colour as seen with a colour vision deficiency."""
    rgb = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(np.clip(XYZ @ np.clip(np.array(DEFICIENCIES[kind]) @ linear, 0, 1), 1e-9, None) / WHITE)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def min_distance(colours: tuple[str, ...], kind: str) -> float:
    """The smallest distance of two colours in CIELAB."""
    return min(float(np.linalg.norm(lab(a, kind) - lab(b, kind))) for a, b in combinations(colours, 2))


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_colours_of_one_figure_can_be_distinguished(kind):
    assert min_distance((MAIN_COLOUR, VALIDATION_COLOUR, BATCH_COLOUR), kind) > 20
    assert min_distance(CURVE_COLOURS[:5], kind) > 10  # further curves also have other dashes or markers


def test_ordered_colours_get_lighter():
    brightness = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in ordered_colours(8)]
    assert brightness == sorted(brightness)
