"""A random-effects meta-analysis: one estimate from the differences that several studies found, such as one per text.

The model: study i estimates its own effect with the variance v_i, and the effects of the studies are normally
distributed around their mean with the variance tau^2. tau^2 is Paule and Mandel's estimate [1], and the interval of
the mean is that of Hartung, Knapp, Sidik and Jonkman [2, 3], by Student's t with k - 1 degrees of freedom for k
studies. The usual interval, of DerSimonian and Laird with normal quantiles, is too narrow for few studies: it leaves
out the mean much more often than in 5% of cases [4]. A comparison of estimators recommends Paule and Mandel's tau^2
and that of REML [5]; the first needs no starting value.

With this tau^2, the factor by which [2, 3] multiply the standard error is 1 where tau^2 is above 0. Where tau^2 is 0,
the studies differ by no more than chance, and the factor would narrow the interval; it is left out there, as [6]
advises. So the code has no factor.

All of these treat v_i as known. Where it comes from few seeds it is not, so tau and I^2 are rough.

[1] Paule and Mandel 1982, Consensus values and weighting factors, J. Res. NBS 87(5).
[2] Hartung and Knapp 2001, A refined method for the meta-analysis of controlled clinical trials, Stat. Med. 20.
[3] Sidik and Jonkman 2002, A simple confidence interval for meta-analysis, Stat. Med. 21.
[4] IntHout, Ioannidis and Borm 2014, The Hartung-Knapp-Sidik-Jonkman method, BMC Med. Res. Meth. 14:25.
[5] Veroniki et al. 2016, Methods to estimate the between-study variance, Res. Synth. Methods 7.
[6] Röver, Knapp and Friede 2015, Hartung-Knapp-Sidik-Jonkman approach and its modification, BMC Med. Res. Meth. 15:99.
[7] Higgins, Thompson and Spiegelhalter 2009, A re-evaluation of random-effects meta-analysis, J. R. Stat. Soc. A 172.
[8] Higgins and Thompson 2002, Quantifying heterogeneity in a meta-analysis, Stat. Med. 21.

Shapes: K studies.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charladder.studies.statistics import SIGNIFICANCE_LEVEL, student_t


@dataclass(frozen=True)
class MetaAnalysis:
    """The mean effect of `studies` studies.

    low, high: its 95% interval; p: of a two-sided test against 0. tau: the standard deviation of the studies' effects;
    i2: the share of the variation between the estimates that is not chance, in [0, 1] [8]. prediction_low,
    prediction_high: the 95% interval for the effect in one further study [7]. What needs more studies is None: all but
    the mean with one, the prediction with two.
    """

    mean: float
    studies: int
    low: float | None = None
    high: float | None = None
    p: float | None = None
    tau: float | None = None
    i2: float | None = None
    prediction_low: float | None = None
    prediction_high: float | None = None


def combine_studies(effects: Sequence[float], variances: Sequence[float]) -> MetaAnalysis | None:
    """Combines the effects of studies. variances: of each estimate, above 0. None without studies."""
    effects_K, variances_K = np.asarray(effects, np.float64), np.asarray(variances, np.float64)
    if effects_K.shape != variances_K.shape or not (np.isfinite(effects_K).all() and np.isfinite(variances_K).all()):
        raise ValueError("each study must have a finite effect and a finite variance")
    if (variances_K < np.finfo(np.float64).tiny).any():  # the weight of a smaller one overflows
        raise ValueError("the variance of a study must be above 0")
    K = len(effects_K)
    if K < 2:
        return MetaAnalysis(float(effects_K[0]), 1) if K else None
    tau2 = _paule_mandel(effects_K, variances_K)
    weights_K = 1 / (variances_K + tau2)
    mean = _weighted_mean(effects_K, weights_K)
    error = 1 / math.sqrt(weights_K.sum())
    t = student_t()
    half = float(t.isf(SIGNIFICANCE_LEVEL / 2, K - 1)) * error
    squares = _weighted_squares(effects_K, 1 / variances_K)
    low = high = None
    if K > 2:
        reach = float(t.isf(SIGNIFICANCE_LEVEL / 2, K - 2)) * math.sqrt(tau2 + error**2)
        low, high = mean - reach, mean + reach
    return MetaAnalysis(
        mean=mean,
        studies=K,
        low=mean - half,
        high=mean + half,
        p=2 * float(t.sf(abs(mean) / error, K - 1)),
        tau=math.sqrt(tau2),
        i2=max(0.0, 1 - (K - 1) / squares) if squares else 0.0,
        prediction_low=low,
        prediction_high=high,
    )


def _paule_mandel(effects_K: np.ndarray, variances_K: np.ndarray) -> float:
    """The tau^2 at which the weighted squares are as large as expected, K - 1; 0 where they are smaller already.

    They fall as tau^2 rises, so bisection finds it.
    """

    def squares(tau2: float) -> float:
        return _weighted_squares(effects_K, 1 / (variances_K + tau2))

    expected = len(effects_K) - 1
    if squares(0.0) <= expected:
        return 0.0
    low, high = 0.0, float(np.var(effects_K, ddof=1))  # weights at most 1 / tau^2 make the squares at most K - 1 there
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if squares(middle) > expected else (low, middle)
    return high


def _weighted_mean(effects_K: np.ndarray, weights_K: np.ndarray) -> float:
    return float((weights_K * effects_K).sum() / weights_K.sum())


def _weighted_squares(effects_K: np.ndarray, weights_K: np.ndarray) -> float:
    """The weighted sum of squared distances from the weighted mean."""
    return float((weights_K * (effects_K - _weighted_mean(effects_K, weights_K)) ** 2).sum())
