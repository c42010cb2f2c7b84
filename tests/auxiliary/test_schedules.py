"""The schedule of the paper, and the defects of its public reproduction (integer divisions that gave zero)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charladder.auxiliary import Report, TermReport, merge, schedules


@pytest.mark.parametrize("layer", range(1, 64))
def test_every_rung_of_t64_leaves_at_l_over_2n(layer):
    end = layer / 128
    assert schedules.al_rfou(layer, 64, 0.0) == 1
    assert schedules.al_rfou(layer, 64, math.nextafter(end, 0)) == 1
    assert schedules.al_rfou(layer, 64, end) == 0
    assert schedules.al_rfou(layer, 64, math.nextafter(end, 1)) == 0
    assert schedules.al_rfou(layer, 64, 0.5) == 0
    assert schedules.al_rfou(layer, 64, 1.0) == 0


@given(st.floats(0, 1))
def test_the_last_layer_never_leaves(progress):
    assert schedules.al_rfou(64, 64, progress) == 1


def test_no_integer_division():
    """`i // (2 * n)` is zero for every layer: then all rungs would leave at once, at the start."""
    halfway = [schedules.al_rfou(layer, 64, 0.25) for layer in range(1, 64)]
    assert halfway == [0.0] * 32 + [1.0] * 31


def test_span_of_the_other_figure():
    assert schedules.al_rfou(32, 64, 0.49, span=1.0) == 1
    assert schedules.al_rfou(32, 64, 0.5, span=1.0) == 0


def test_fade_and_targets():
    assert [schedules.linear_fade(0.5, t) for t in (0, 0.25, 0.5, 1)] == [1, 0.5, 0, 0]
    assert schedules.linear_fade(0.0, 0.0) == 0
    assert [schedules.al_rfou_target(k) for k in (1, 2, 3)] == [1, 0.5, 0.5]


def test_reports_merge_by_sums_and_counts_not_by_means():
    one = Report(torch.tensor(1.0), {"main": TermReport(torch.tensor(3.0), 3, 1.0)})
    two = Report(torch.tensor(2.0), {"main": TermReport(torch.tensor(9.0), 1, 1.0)})
    merged = merge([one, two])
    assert float(merged.total) == 3
    assert merged.terms["main"].value == 3.0  # (3 + 9) / 4, where the mean of means would be 5
    assert merged.terms["main"].bits == pytest.approx(3 / math.log(2))
