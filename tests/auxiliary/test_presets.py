"""The schedule of the paper, and the defects of its public reproduction (integer divisions that gave zero)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charladder.auxiliary import presets


@pytest.mark.parametrize("layer", range(1, 64))
def test_every_rung_of_t64_leaves_at_l_over_2n(layer):
    end = layer / 128
    assert presets.al_rfou(layer, 64, 0.0) == 1
    assert presets.al_rfou(layer, 64, math.nextafter(end, 0)) == 1
    assert presets.al_rfou(layer, 64, end) == 0
    assert presets.al_rfou(layer, 64, math.nextafter(end, 1)) == 0
    assert presets.al_rfou(layer, 64, 0.5) == 0
    assert presets.al_rfou(layer, 64, 1.0) == 0


@given(st.floats(0, 1))
def test_the_last_layer_never_leaves(progress):
    assert presets.al_rfou(64, 64, progress) == 1


def test_no_integer_division():
    """`i // (2 * n)` is zero for every layer: then all rungs would leave at once, at the start."""
    halfway = [presets.al_rfou(layer, 64, 0.25) for layer in range(1, 64)]
    assert halfway == [0.0] * 32 + [1.0] * 31


def test_span_of_the_other_figure():
    assert presets.al_rfou(32, 64, 0.49, span=1.0) == 1
    assert presets.al_rfou(32, 64, 0.5, span=1.0) == 0
