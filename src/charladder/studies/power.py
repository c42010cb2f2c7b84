"""The power of the paired t-test: how many seeds an effect needs, and which effect a number of seeds can show.

The test statistic of n pairs with the effect d and the standard deviation s of a pair's difference has a noncentral
t distribution with n - 1 degrees of freedom and the noncentrality d / s * sqrt(n).
"""

import functools
import math

import numpy as np

from charladder.studies.statistics import MIN_SEEDS_FOR_CLAIM, SIGNIFICANCE_LEVEL, student_t

POWER = 0.8
MIN_SEEDS_FOR_PLAN = 3  # the standard deviation of two differences is hardly known
MAX_SEEDS = 1_000_000


def power_of_paired_test(effect: float, deviation: float, seeds: int, level: float = SIGNIFICANCE_LEVEL) -> float:
    """The probability that a two-sided paired t-test at `level` rejects, where the mean difference is `effect`.

    deviation: the standard deviation of a pair's difference. seeds: the number of pairs, at least 2.
    """
    if deviation == 0:
        return 1.0 if effect else level
    return _power(abs(effect) / deviation * math.sqrt(seeds), seeds, level)


def seeds_needed(
    effect: float, deviation: float, power: float = POWER, level: float = SIGNIFICANCE_LEVEL
) -> int | None:
    """The smallest number of seeds, and at least as many as a claim needs, with which a difference of `effect` is
    shown with the probability `power`; None if it is above MAX_SEEDS."""
    low, high = MIN_SEEDS_FOR_CLAIM - 1, MIN_SEEDS_FOR_CLAIM
    while power_of_paired_test(effect, deviation, high, level) < power:
        if high >= MAX_SEEDS:
            return None
        low, high = high, min(2 * high, MAX_SEEDS)
    while high - low > 1:
        middle = (low + high) // 2
        if power_of_paired_test(effect, deviation, middle, level) < power:
            low = middle
        else:
            high = middle
    return high


def smallest_detectable_effect(
    deviation: float, seeds: int, power: float = POWER, level: float = SIGNIFICANCE_LEVEL
) -> float:
    """The effect that `seeds` pairs show with the probability `power`."""
    return _noncentrality_needed(seeds, power, level) * deviation / math.sqrt(seeds)


@functools.cache
def _noncentrality_needed(seeds: int, power: float, level: float) -> float:
    """The noncentrality with which the test has this power, by bisection."""
    low, high = 0.0, 1.0
    while _power(high, seeds, level) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, seeds, level) < power else (low, middle)
    return high


def _power(noncentrality: float, seeds: int, level: float) -> float:
    critical = student_t().isf(level / 2, seeds - 1)
    from scipy.stats import nct

    above, below = nct.sf(critical, seeds - 1, noncentrality), nct.cdf(-critical, seeds - 1, noncentrality)
    return float(above + np.nan_to_num(below))  # scipy returns NaN for some probabilities below 1e-100
