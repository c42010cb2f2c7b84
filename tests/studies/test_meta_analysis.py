"""The meta-analysis over studies: examples computed by hand, properties, and intervals that contain the mean."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from charladder.studies.meta_analysis import combine_studies

T1, T2 = 12.7062047, 4.30265273  # 97.5% quantiles of Student's t with 1 and 2 degrees of freedom, from a table
STUDIES = some.lists(some.tuples(some.floats(-5, 5), some.floats(0.01, 5)), min_size=2, max_size=8)


def test_three_studies_with_equal_variances():
    """The squared distances from the mean, 2, add up to 8. 8 / (1 + tau^2) = 2 gives tau^2 = 3; Q = 8."""
    found = combine_studies([0.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    error = math.sqrt(4 / 3)
    assert found is not None and found.mean == pytest.approx(2) and found.studies == 3
    assert (found.low, found.high) == pytest.approx((2 - T2 * error, 2 + T2 * error))
    assert found.tau == pytest.approx(math.sqrt(3)) and found.i2 == pytest.approx(0.75)
    reach = T1 * math.sqrt(3 + 4 / 3)
    assert (found.prediction_low, found.prediction_high) == pytest.approx((2 - reach, 2 + reach))


def test_two_studies_with_other_variances():
    """9 / (1 + 2 + 2 tau^2) = 1 gives tau^2 = 3, so the weights are 1/4 and 1/5; Q = 9 / 3."""
    found = combine_studies([0.0, 3.0], [1.0, 2.0])
    assert found is not None and found.mean == pytest.approx(4 / 3) and found.tau == pytest.approx(math.sqrt(3))
    error = math.sqrt(1 / 0.45)
    assert (found.low, found.high) == pytest.approx((4 / 3 - T1 * error, 4 / 3 + T1 * error))
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(4 / 3 / error)), "t with 1 degree is Cauchy's"
    assert found.i2 == pytest.approx(2 / 3)
    assert found.prediction_low is None and found.prediction_high is None


def test_studies_that_agree():
    """The interval is that of a fixed effect, by Student's t, and not narrower."""
    found = combine_studies([-0.5] * 3, [0.04, 0.04, 0.02])
    error = math.sqrt(1 / (25 + 25 + 50))
    assert found is not None and found.mean == -0.5 and (found.tau, found.i2) == (0, 0)
    assert (found.low, found.high) == pytest.approx((-0.5 - T2 * error, -0.5 + T2 * error))


def test_one_study_and_none():
    assert combine_studies([], []) is None
    found = combine_studies([0.3], [0.1])
    assert found is not None and (found.mean, found.studies) == (0.3, 1)
    assert [found.low, found.high, found.p, found.tau, found.i2, found.prediction_low] == [None] * 6


@pytest.mark.parametrize(
    ("effects", "variances"),
    [
        ([1.0], [0.0]),
        ([1.0, 2.0], [5e-324, 1.0]),
        ([1.0, 2.0], [1.0, -1.0]),
        ([math.nan], [1.0]),
        ([1.0], [math.inf]),
        ([1.0], [1.0, 1.0]),
    ],
)
def test_studies_without_a_variance_are_refused(effects, variances):
    with pytest.raises(ValueError, match="variance"):
        combine_studies(effects, variances)


@given(STUDIES, some.floats(-3, 3), some.floats(0.5, 2))
def test_order_shift_and_scale(studies, shift, scale):
    effects, variances = map(np.array, zip(*studies, strict=True))
    one = combine_studies(effects, variances)
    other = combine_studies((scale * effects + shift)[::-1], (scale**2 * variances)[::-1])
    assert one is not None and other is not None
    assert min(effects) - 1e-9 <= one.mean <= max(effects) + 1e-9
    for name in ("mean", "low", "high"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name) + shift, abs=1e-6)
    assert other.tau == pytest.approx(scale * one.tau, abs=1e-5) and other.i2 == pytest.approx(one.i2, abs=1e-6)
    assert 0 <= one.i2 < 1 and one.tau <= np.std(effects, ddof=1) * (1 + 1e-9)


@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_intervals_contain_the_mean(tau):
    """5 texts with 5 seeds each, whose variances are estimated from the seeds."""
    generator = np.random.default_rng(0)
    contained = 0
    for _ in range(400):
        of_text = generator.normal(0, tau, 5)
        of_seed = of_text[:, None] + generator.normal(0, 1, (5, 5))
        found = combine_studies(of_seed.mean(1).tolist(), (of_seed.var(1, ddof=1) / 5).tolist())
        assert found is not None and found.low is not None and found.high is not None
        contained += found.low <= 0 <= found.high
    assert contained / 400 > 0.92
