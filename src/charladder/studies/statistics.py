"""Statistics over seeds: means with intervals, paired differences, Holm's correction, and the verdict on a difference.

All intervals are 95% confidence intervals of the mean by Student's t. No value is extrapolated.

Shapes: P points of a curve, R runs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charladder.errors import UserError

MIN_SEEDS_FOR_CLAIM = 5
SIGNIFICANCE_LEVEL = 0.05
TOO_FEW_SEEDS = "not enough seeds for a claim"


@dataclass(frozen=True)
class Metric:
    """The number in which arms are compared. decimals: of its values in tables; verdicts have one less."""

    name: str
    higher_is_better: bool = False
    decimals: int = 4

    def is_better(self, difference: float) -> bool:
        """Whether a difference of this sign, arm minus baseline, is an improvement."""
        return (difference > 0) == self.higher_is_better and difference != 0


BITS_PER_CHARACTER = Metric("bits per character")


@dataclass(frozen=True)
class Estimate:
    """The mean of n numbers with its 95% interval, low to high, which is None for a single number."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Arm minus baseline, paired by seed: the mean over `seeds`, its 95% interval, the two-sided p-value of a paired
    t-test, and the standard deviation of a pair's difference. All but the mean are None for a single pair."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: tuple[int, ...]
    deviation: float | None = None


@dataclass(frozen=True)
class ConfidenceBand:
    """The mean of n curves at x, with its 95% interval, which is None for a single curve. All arrays are (P,)."""

    x_P: np.ndarray
    mean_P: np.ndarray
    low_P: np.ndarray | None
    high_P: np.ndarray | None
    n: int


def estimate_mean(numbers: Sequence[float]) -> Estimate | None:
    """The mean of the numbers and its interval; None without numbers."""
    if not len(numbers):
        return None
    mean = float(np.mean(numbers))
    if len(numbers) == 1:
        return Estimate(mean, None, None, 1)
    half = float(_half_width(np.asarray(numbers)))
    return Estimate(mean, mean - half, mean + half, len(numbers))


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of two arms, given as a number by seed, over the seeds of both; None without a common seed."""
    seeds = tuple(sorted(set(arm) & set(baseline)))
    differences = [arm[seed] - baseline[seed] for seed in seeds]
    estimate = estimate_mean(differences)
    if estimate is None:
        return None
    if estimate.n == 1:
        return Difference(estimate.mean, None, None, None, seeds)
    # scipy's own t-tests warn, and return NaN, where the differences of all seeds are equal.
    deviation = float(np.std(differences, ddof=1))
    error = deviation / math.sqrt(estimate.n)
    t = abs(estimate.mean) / error if error else math.inf if estimate.mean else 0.0
    p = 2 * float(student_t().sf(t, estimate.n - 1))
    return Difference(estimate.mean, estimate.low, estimate.high, p, seeds, deviation)


def holm_correction(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests by name, corrected by Holm's step-down method, which bounds the family-wise error."""
    corrected, highest, remaining = {}, 0.0, len(p_values)
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        highest = max(highest, min(1.0, remaining * p))
        corrected[name], remaining = highest, remaining - 1
    return {name: corrected[name] for name in p_values}


def is_significant(difference: Difference | None, p_holm: float | None) -> bool:
    """Whether a difference may be claimed: it has enough seeds and its corrected p-value is below the level."""
    enough = difference is not None and len(difference.seeds) >= MIN_SEEDS_FOR_CLAIM
    return enough and p_holm is not None and p_holm < SIGNIFICANCE_LEVEL


def make_verdict(
    difference: Difference | None,
    p_holm: float | None,
    baseline: str,
    metric: Metric = BITS_PER_CHARACTER,
    effect: float | None = None,
) -> str:
    """The verdict on an arm against the baseline.

    effect: the difference that would matter. Where no difference is shown, the verdict then says whether the interval
    excludes it: if it does not, the study is uninformative about it.
    """
    if difference is None or p_holm is None or len(difference.seeds) < MIN_SEEDS_FOR_CLAIM:
        return TOO_FEW_SEEDS
    assert difference.low is not None and difference.high is not None
    low, high = sorted((abs(difference.low), abs(difference.high)))
    if is_significant(difference, p_holm):
        comparison = "better" if metric.is_better(difference.mean) else "worse"
        spec = f".{max(0, metric.decimals - 1)}f"
        by = f"{abs(difference.mean):{spec}} ({low:{spec}} to {high:{spec}})"
        return f"{comparison} than {baseline} by {by}, {len(difference.seeds)} seeds"
    if effect is None:
        return "no difference shown"
    if high < effect:
        return f"no difference shown, and the interval excludes an effect of {effect:g}"
    return f"uninformative: no difference shown, and the interval contains an effect of {effect:g}"


def first_crossing(x_P: np.ndarray, bits_P: np.ndarray, level: float) -> float | None:
    """The x at which a curve first comes down to `level`, by linear interpolation between two of its points.

    It is the first x where the curve begins at or below the level, and None where the curve never reaches it.
    """
    below = np.flatnonzero(bits_P <= level)
    if not len(below):
        return None
    first = int(below[0])
    if first == 0:
        return float(x_P[0])
    share = (bits_P[first - 1] - level) / (bits_P[first - 1] - bits_P[first])
    return float(x_P[first - 1] + share * (x_P[first] - x_P[first - 1]))


def confidence_band(curves: Sequence[tuple[np.ndarray, np.ndarray]], max_points: int = 200) -> ConfidenceBand | None:
    """The band of curves (x, bits), each rising in x and interpolated linearly, over the range of x that all of them
    cover; None without such a range."""
    curves = [curve for curve in curves if len(curve[0])]
    if not curves:
        return None
    begin, end = max(float(x[0]) for x, _ in curves), min(float(x[-1]) for x, _ in curves)
    x_P = np.unique(np.concatenate([x for x, _ in curves]))
    x_P = x_P[(x_P >= begin) & (x_P <= end)]
    if not len(x_P):
        return None
    if len(x_P) > max_points:
        x_P = x_P[np.unique(np.linspace(0, len(x_P) - 1, max_points).round().astype(int))]
    bits_RP = np.stack([np.interp(x_P, x, bits) for x, bits in curves])
    mean_P = bits_RP.mean(0)
    if len(curves) == 1:
        return ConfidenceBand(x_P, mean_P, None, None, 1)
    half_P = _half_width(bits_RP)
    return ConfidenceBand(x_P, mean_P, mean_P - half_P, mean_P + half_P, len(curves))


def _half_width(numbers: np.ndarray) -> np.ndarray:
    """Half the width of the 95% interval of the mean over the first dimension, which has at least two entries."""
    n = len(numbers)
    return student_t().ppf(1 - SIGNIFICANCE_LEVEL / 2, n - 1) * np.std(numbers, axis=0, ddof=1) / math.sqrt(n)


def student_t() -> Any:
    """scipy's distribution of Student's t. Raises UserError where scipy is missing."""
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError('the statistics of a study need scipy: pip install "charladder[study]"') from None
    return t
