import builtins
import math

import numpy as np
import pytest
from scipy import stats

from charladder.errors import UserError
from charladder.studies.statistics import (
    TOO_FEW_SEEDS,
    Difference,
    confidence_band,
    estimate_mean,
    first_crossing,
    holm_correction,
    make_verdict,
    paired_difference,
)


def test_interval_by_hand():
    found = estimate_mean([1.0, 2.0, 3.0, 4.0, 5.0])
    # Standard deviation sqrt(2.5), standard error sqrt(0.5), t(0.975, 4) = 2.776445.
    assert found is not None and found.n == 5 and found.mean == 3.0
    assert found.low == pytest.approx(3 - 2.776445 * math.sqrt(0.5), abs=1e-6)
    assert found.high == pytest.approx(3 + 2.776445 * math.sqrt(0.5), abs=1e-6)


def test_interval_against_scipy():
    numbers = np.random.default_rng(0).normal(2, 0.1, 7).tolist()
    found = estimate_mean(numbers)
    low, high = stats.t.interval(0.95, 6, np.mean(numbers), stats.sem(numbers))
    assert found is not None
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)


def test_interval_needs_two_numbers():
    assert estimate_mean([]) is None
    found = estimate_mean([2.5])
    assert found is not None
    assert (found.mean, found.low, found.high, found.n) == (2.5, None, None, 1)


@pytest.mark.parametrize("n", [2, 5, 9])
def test_interval_covers_the_mean_in_95_percent_of_trials(n):
    trials, rng = 4000, np.random.default_rng(n)
    hits = 0
    for numbers in rng.normal(1.8, 0.02, (trials, n)):
        found = estimate_mean(numbers.tolist())
        assert found is not None and found.low is not None and found.high is not None
        hits += found.low <= 1.8 <= found.high
    # The standard deviation of the share is 0.0034; three of them.
    assert hits / trials == pytest.approx(0.95, abs=0.0104)


def test_false_positive_rate_is_5_percent():
    trials, rng = 4000, np.random.default_rng(1)
    false = 0
    for arm, baseline in rng.normal(1.8, 0.02, (trials, 2, 5)):
        found = paired_difference(dict(enumerate(arm)), dict(enumerate(baseline)))
        assert found is not None and found.p is not None
        false += found.p < 0.05
    assert false / trials == pytest.approx(0.05, abs=0.0104)


def test_paired_differences_against_scipy():
    rng = np.random.default_rng(2)
    baseline = rng.normal(1.9, 0.05, 6)
    arm = baseline - 0.03 + rng.normal(0, 0.01, 6)
    found = paired_difference(dict(enumerate(arm)), dict(enumerate(baseline)))
    expected = stats.ttest_rel(arm, baseline)
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


def test_only_common_seeds_are_paired():
    found = paired_difference({0: 1.0, 1: 2.0, 7: 100.0}, {0: 1.5, 1: 2.25, 3: -100.0})
    assert found is not None
    assert found.seeds == (0, 1)
    assert found.mean == -0.375


def test_one_pair_has_no_p_value():
    found = paired_difference({0: 1.0}, {0: 1.5, 1: 2.0})
    assert found == Difference(-0.5, None, None, None, (0,))
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_the_same_difference_for_every_seed():
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    apart = paired_difference({0: 1.0, 1: 2.0}, {0: 1.5, 1: 2.5})
    assert same is not None and same.p == 1.0
    assert apart is not None and apart.p == 0.0


def test_holm_by_hand():
    # Times 4, 3, 2, 1 in rising order, never falling, at most 1.
    assert holm_correction({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm_correction({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm_correction({"a": 0.02}) == {"a": 0.02}
    assert holm_correction({}) == {}
    assert list(holm_correction({"b": 0.9, "a": 0.1})) == ["b", "a"]


def test_verdicts():
    seeds = (0, 1, 2, 3, 4)
    better = Difference(-0.031, -0.044, -0.018, 0.001, seeds)
    assert make_verdict(better, 0.002, "none") == "better than none by 0.031 (0.018 to 0.044), 5 seeds"
    worse = Difference(0.031, 0.018, 0.044, 0.001, seeds)
    assert make_verdict(worse, 0.002, "none") == "worse than none by 0.031 (0.018 to 0.044), 5 seeds"
    assert make_verdict(better, 0.06, "none") == "no difference shown"  # in itself, but not among all arms
    assert make_verdict(Difference(-0.031, -0.032, -0.030, 1e-6, seeds[:4]), 1e-6, "none") == TOO_FEW_SEEDS
    assert make_verdict(Difference(-0.031, None, None, None, (0,)), None, "none") == TOO_FEW_SEEDS
    assert make_verdict(None, None, "none") == TOO_FEW_SEEDS


def test_crossing_is_interpolated():
    x, bits = np.array([10.0, 20.0, 40.0]), np.array([3.0, 2.0, 1.0])
    assert first_crossing(x, bits, 2.5) == 15
    assert first_crossing(x, bits, 2.0) == 20
    assert first_crossing(x, bits, 1.25) == 35


def test_crossing_is_not_extrapolated():
    x, bits = np.array([10.0, 20.0, 40.0]), np.array([3.0, 2.0, 1.0])
    assert first_crossing(x, bits, 0.999) is None
    assert first_crossing(x, bits, 3.5) == 10  # the first point is below the level
    assert first_crossing(x[:0], bits[:0], 2.0) is None


def test_first_of_two_crossings():
    x, bits = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 1.0, 3.0, 1.0])
    assert first_crossing(x, bits, 2.0) == 1.5


def test_band_covers_the_common_range():
    one = np.array([0.0, 10.0, 20.0]), np.array([4.0, 3.0, 2.0])
    two = np.array([5.0, 15.0, 40.0]), np.array([2.0, 1.0, 0.0])
    found = confidence_band([one, two])
    assert found is not None and found.n == 2
    assert found.x_P.tolist() == [5, 10, 15, 20]
    assert found.mean_P.tolist() == pytest.approx([(3.5 + 2) / 2, (3 + 1.5) / 2, (2.5 + 1) / 2, (2 + 0.8) / 2])
    expected = stats.t.interval(0.95, 1, found.mean_P[0], stats.sem([3.5, 2.0]))
    assert found.low_P is not None and found.high_P is not None
    assert (found.low_P[0], found.high_P[0]) == pytest.approx(expected)


def test_no_band_without_a_common_range():
    one, two = (np.array([0.0, 1.0]), np.ones(2)), (np.array([2.0, 3.0]), np.ones(2))
    assert confidence_band([one, two]) is None
    assert confidence_band([]) is None
    assert confidence_band([(np.array([]), np.array([]))]) is None


def test_band_of_one_curve_has_no_interval():
    found = confidence_band([(np.array([0.0, 1.0]), np.array([2.0, 1.0]))])
    assert found is not None
    assert (found.low_P, found.high_P) == (None, None)
    assert found.mean_P.tolist() == [2, 1]


def test_missing_scipy_names_the_extra_to_install(monkeypatch):
    ours = builtins.__import__

    def without(name, *others, **more):
        if name.startswith("scipy"):
            raise ImportError(name)
        return ours(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert estimate_mean([1.0]) is not None  # one number needs no statistics
    with pytest.raises(UserError, match=r'pip install "charladder\[study\]"'):
        estimate_mean([1.0, 2.0])
