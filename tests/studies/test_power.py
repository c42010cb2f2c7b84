"""The power of the paired t-test, against published numbers, an integral and simulated studies."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from charladder.studies.power import power_of_paired_test, seeds_needed, smallest_detectable_effect
from charladder.studies.report import compare_arms
from charladder.studies.statistics import MIN_SEEDS_FOR_CLAIM, Metric, is_significant


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_are_those_of_the_tables(effect, seeds):
    """Cohen's small, medium and large effects of paired differences, with a power of 80%."""
    assert seeds_needed(effect, 1.0) == seeds
    assert power_of_paired_test(effect, 1.0, seeds) >= 0.8 > power_of_paired_test(effect, 1.0, seeds - 1)


@pytest.mark.parametrize(("effect", "deviation", "seeds"), [(0.01, 0.02, 5), (-3.0, 1.5, 4), (0.0, 1.0, 3)])
def test_power_is_the_integral_over_the_standard_deviation(effect, deviation, seeds):
    critical, shift = stats.t.isf(0.025, seeds - 1), abs(effect) / deviation * math.sqrt(seeds)

    def rejected(ratio):  # the estimated standard deviation over the true one, which has a scaled chi distribution
        tails = stats.norm.sf(critical * ratio - shift) + stats.norm.cdf(-critical * ratio - shift)
        return tails * stats.chi.pdf(ratio * math.sqrt(seeds - 1), seeds - 1) * math.sqrt(seeds - 1)

    found = power_of_paired_test(effect, deviation, seeds)
    assert found == pytest.approx(integrate.quad(rejected, 0, 20)[0], abs=1e-7)


def test_smallest_detectable_effect_has_the_power():
    effect = smallest_detectable_effect(0.02, 5)
    assert power_of_paired_test(effect, 0.02, 5) == pytest.approx(0.8, abs=1e-9)
    assert smallest_detectable_effect(0.04, 5) == pytest.approx(2 * effect)
    assert smallest_detectable_effect(0.0, 5) == 0.0
    assert smallest_detectable_effect(0.02, 5, level=0.025) > effect


def test_ends_of_the_number_of_seeds():
    assert seeds_needed(100.0, 1.0) == MIN_SEEDS_FOR_CLAIM  # two would do for the test, not for a claim
    assert seeds_needed(1.0, 0.0) == MIN_SEEDS_FOR_CLAIM
    assert seeds_needed(1e-9, 1.0) is None


@pytest.mark.slow
def test_power_at_the_planned_number_of_seeds():
    """2,000 studies of an effect with as many seeds as planned: claims are as frequent as predicted."""
    effect, noise = 0.03, 0.02
    deviation = noise * math.sqrt(2)  # of the difference of two runs
    planned = seeds_needed(effect, deviation)
    assert planned is not None and planned > MIN_SEEDS_FOR_CLAIM
    claims = count_claims(planned, effect, noise, arms=1)
    low, high = stats.binom.interval(0.999, 2000, power_of_paired_test(effect, deviation, planned))
    assert low <= claims <= high
    assert claims >= stats.binom.ppf(0.001, 2000, 0.8)


@pytest.mark.slow
def test_false_positive_rate_of_null_studies():
    """2,000 studies in which no arm differs."""
    low, high = stats.binom.interval(0.999, 2000, 0.05)
    assert low <= count_claims(5, 0.0, 0.02, arms=1) <= high
    assert count_claims(5, 0.0, 0.02, arms=3) <= high  # Holm's correction bounds the rate of any false claim


def count_claims(seeds: int, effect: float, noise: float, arms: int) -> int:
    """How many of 2,000 simulated studies claim a difference of an arm."""
    rng, claims = np.random.default_rng(seeds), 0
    for numbers in rng.normal(1.8, noise, (2000, arms + 1, seeds)):
        numbers[1:] -= effect
        values = {f"arm{i}": dict(enumerate(each.tolist())) for i, each in enumerate(numbers)}
        compared = compare_arms(values, "arm0", seeds, Metric("loss"))
        claims += any(is_significant(one.difference, one.p_holm) for one in compared)
    return claims
