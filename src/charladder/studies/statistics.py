"""What several seeds say: means with intervals, differences by seed, and what may be claimed of them.

All intervals are 95%, of the mean, by Student's t. Nothing here is extrapolated, and nothing is claimed of fewer than
ENOUGH seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from charladder.errors import UserError

MIN_SEEDS_FOR_CLAIM = 5  # seeds, below which nothing is claimed
SIGNIFICANCE_LEVEL = 0.05
TOO_FEW_SEEDS = "not enough seeds for a claim"


@dataclass(frozen=True)
class Estimate:
    """The mean of n numbers; low and high end its 95% interval, and are None for a single number."""

    mean: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """An arm less the baseline, seed by seed: the mean over `seeds` with its 95% interval, and the two-sided p-value of
    a paired t-test. Interval and p are None for a single pair."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: tuple[int, ...]


def student() -> Any:
    """Student's t distribution. Raises UserError where scipy is missing."""
    try:
        from scipy.stats import t
    except ImportError:
        raise UserError('the statistics of a plan need scipy: pip install "charladder[study]"') from None
    return t


def estimate_mean(numbers: Sequence[float]) -> Estimate | None:
    """The mean of at least one number, with its interval from two on; None of none."""
    n = len(numbers)
    if n == 0:
        return None
    mean = float(np.mean(numbers))
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(student().ppf(1 - SIGNIFICANCE_LEVEL / 2, n - 1) * np.std(numbers, ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """The difference of two arms, each a number by seed, over the seeds that both have; None where there are none."""
    seeds = tuple(sorted(set(arm) & set(baseline)))
    differences = [arm[seed] - baseline[seed] for seed in seeds]
    found = estimate_mean(differences)
    if found is None:
        return None
    if found.n == 1:
        return Difference(found.mean, None, None, None, seeds)
    error = float(np.std(differences, ddof=1)) / math.sqrt(found.n)
    # The same difference for every seed, none or another, is certain.
    t = abs(found.mean) / error if error else math.inf if found.mean else 0.0
    p = 2 * float(student().sf(t, found.n - 1))
    return Difference(found.mean, found.low, found.high, p, seeds)


def holm_correction(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests by name, corrected by Holm's step-down rule: below 0.05, the chance that any of the
    claims is false stays below 0.05."""
    corrected, highest, left = {}, 0.0, len(p_values)
    for name, p in sorted(p_values.items(), key=lambda item: item[1]):
        highest = max(highest, min(1.0, left * p))
        corrected[name], left = highest, left - 1
    return {name: corrected[name] for name in p_values}


def is_significant(difference: Difference | None, p_holm: float | None) -> bool:
    """Whether a difference may be claimed: of enough seeds, with a corrected p-value below the level."""
    return (
        difference is not None
        and p_holm is not None
        and len(difference.seeds) >= MIN_SEEDS_FOR_CLAIM
        and p_holm < SIGNIFICANCE_LEVEL
    )


def make_verdict(difference: Difference | None, p_holm: float | None, baseline: str) -> str:
    """What may be said of an arm's bits per character against those of the baseline: fewer are better."""
    if difference is None or difference.p is None or p_holm is None or len(difference.seeds) < MIN_SEEDS_FOR_CLAIM:
        return TOO_FEW_SEEDS
    if not is_significant(difference, p_holm):
        return "no difference shown"
    assert difference.low is not None and difference.high is not None
    low, high = sorted((abs(difference.low), abs(difference.high)))
    word = "better" if difference.mean < 0 else "worse"
    by = f"{abs(difference.mean):.3f} ({low:.3f} to {high:.3f})"
    return f"{word} than {baseline} by {by}, {len(difference.seeds)} seeds"


def first_crossing(x_P: np.ndarray, bits_P: np.ndarray, level: float) -> float | None:
    """Where a curve of one run first comes down to `level`: on the straight line between the last point above it and
    the first at or below it. None where it never does; the first point itself where it begins there."""
    below = np.flatnonzero(bits_P <= level)
    if not len(below):
        return None
    at = int(below[0])
    if at == 0:
        return float(x_P[0])
    share = (bits_P[at - 1] - level) / (bits_P[at - 1] - bits_P[at])
    return float(x_P[at - 1] + share * (x_P[at] - x_P[at - 1]))


@dataclass(frozen=True)
class ConfidenceBand:
    """Several curves as one: x (points,), the mean of the n curves there, and its 95% interval, None for one curve."""

    x_P: np.ndarray
    mean_P: np.ndarray
    low_P: np.ndarray | None
    high_P: np.ndarray | None
    n: int


def confidence_band(curves: Sequence[tuple[np.ndarray, np.ndarray]], max_points: int = 200) -> ConfidenceBand | None:
    """The band of curves (x, bits), each rising in x, where all of them have points on both sides; None where they
    share no stretch. Between two points of one run its curve is a straight line. `most`: points of the band."""
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
    n, mean_P = len(curves), bits_RP.mean(0)
    if n == 1:
        return ConfidenceBand(x_P, mean_P, None, None, 1)
    half_P = student().ppf(1 - SIGNIFICANCE_LEVEL / 2, n - 1) * bits_RP.std(0, ddof=1) / math.sqrt(n)
    return ConfidenceBand(x_P, mean_P, mean_P - half_P, mean_P + half_P, n)
