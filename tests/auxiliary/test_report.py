"""Reports: sums, counts, and merging."""

import math

import pytest
import torch

from charladder.auxiliary import Report, TermReport, merge


def test_merge_adds_sums_and_counts():
    one = Report(torch.tensor(1.0), {"main": TermReport(torch.tensor(3.0), 3, 1.0)})
    two = Report(torch.tensor(2.0), {"main": TermReport(torch.tensor(9.0), 1, 1.0)})
    merged = merge([one, two])
    assert float(merged.total) == 3
    assert merged.terms["main"].value == 3.0  # (3 + 9) / 4, where the mean of means would be 5
    assert merged.terms["main"].bits == pytest.approx(3 / math.log(2))


def test_mean_value_is_exact_and_merges_by_count():
    one = TermReport(torch.tensor(1 / 3), 7, 1.0, mean=True)
    assert one.value == float(torch.tensor(1 / 3)) == float(one.sum) / 7
    merged = merge(
        [
            Report(torch.tensor(0.0), {"a": one}),
            Report(torch.tensor(0.0), {"a": TermReport(torch.tensor(2.0), 1, 1.0, True)}),
        ]
    )
    assert merged.terms["a"].value == pytest.approx((7 / 3 + 2) / 8)
