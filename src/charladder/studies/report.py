"""The data of a study's report: every number and sentence that its tables and figures show.

The arms of a study are recipes (recipe_report.py) or settings of a training function (function_report.py).

Shapes: P points of a curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from charladder.studies.plan import Contrast
from charladder.studies.power import smallest_detectable_effect
from charladder.studies.results import FinishedRun, MissingRun
from charladder.studies.statistics import (
    SIGNIFICANCE_LEVEL,
    Difference,
    Estimate,
    Metric,
    estimate_mean,
    holm_correction,
    make_verdict,
    paired_difference,
)

NormsByThird = dict[str, dict[str, float]]  # "early", "mid" or "late" -> number of the layer -> norm


@dataclass(frozen=True)
class LevelReached:
    """How many of the `runs` of an arm reach the level of the baseline, and the mean characters and seconds of training
    that they need. The means are None unless all runs reach it: a mean over some would be that of the fastest."""

    reached_by: int
    runs: int
    characters: float | None
    seconds: float | None


@dataclass(frozen=True)
class TrainingReport:
    """What is known only of the runs of a recipe. All bits are per character.

    train_bits: of the last training batches. difference_at_equal_seconds: from the baseline, of the validations during
    training. gradient_norms: of all terms; main_gradient_norms: of the main loss.
    """

    runs: tuple[FinishedRun, ...]
    train_bits: Estimate | None
    difference_at_equal_seconds: Difference | None
    p_holm_at_equal_seconds: float | None
    characters_per_second: Estimate | None
    level_reached: LevelReached
    gradient_norms: NormsByThird
    main_gradient_norms: NormsByThird


@dataclass(frozen=True)
class ArmReport:
    """The numbers of one arm in the study's metric.

    values: by seed. score: their mean. difference: from the baseline; None for the baseline itself. smallest_effect:
    the difference that as many seeds show with a power of 80%. seconds: of a run. training: of the runs of a recipe.
    """

    name: str
    planned_runs: int
    values: dict[int, float]
    score: Estimate | None
    difference: Difference | None
    p_holm: float | None
    smallest_effect: float | None
    verdict: str
    seconds: Estimate | None = None
    training: TrainingReport | None = None


@dataclass(frozen=True)
class ContrastReport:
    """A contrast of the plan, in bits of the whole valid part and of the last training batches."""

    contrast: Contrast
    bits: Difference | None
    train_bits: Difference | None


@dataclass(frozen=True)
class CurveFigure:
    """A figure of curves with their 95% bands by arm.

    curves: by arm, one (x, y) for each run, both (P,). fit_to_end: whether the vertical axis leaves out the opening.
    caption_if_empty: in place of a figure without curves.
    """

    name: str
    x_label: str
    y_label: str
    description: str
    caption: str
    caption_if_empty: str
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]]
    fit_to_end: bool = False


@dataclass(frozen=True)
class StudyReport:
    """The whole report. score_note: what the metric is measured on, and which direction is better. level: bits per
    character of the baseline at its last validation, in the mean over its runs. provenance: what was run, on which data
    and machine, as (name, text). command: repeats the study. seeds_needed: a sentence for each arm on the seeds that an
    effect needs."""

    name: str
    question: str
    rule: str
    metric: Metric
    score_note: str
    baseline: str
    seeds: tuple[int, ...]
    arms: tuple[ArmReport, ...]
    curves: tuple[CurveFigure, ...]
    missing: tuple[MissingRun, ...]
    warnings: tuple[str, ...]
    provenance: tuple[tuple[str, str], ...]
    command: str
    contrasts: tuple[ContrastReport, ...] = ()
    level: float | None = None
    seeds_needed: tuple[str, ...] = ()

    @property
    def has_training(self) -> bool:
        """Whether the runs are those of recipes."""
        return any(one.training is not None for one in self.arms)


def compare_arms(
    values: Mapping[str, dict[int, float]],
    baseline: str,
    planned_runs: int,
    metric: Metric,
    effect: float | None = None,
) -> tuple[ArmReport, ...]:
    """Compares the values of every arm, by seed, with those of the baseline.

    effect: the difference that would matter, for the verdicts.
    """
    others = [name for name in values if name != baseline]
    differences = {name: paired_difference(values[name], values[baseline]) for name in others}
    p_holm = correct_p_values(differences)
    arms = []
    for name, by_seed in values.items():
        difference = differences.get(name)
        verdict = make_verdict(difference, p_holm.get(name), baseline, metric, effect)
        if not by_seed:
            verdict = "no finished run"
        elif name == baseline:
            verdict = "the baseline"
        smallest = None
        if difference is not None and difference.deviation is not None:
            # The level of Holm's first step: the effect is then shown whatever the other arms give.
            level = SIGNIFICANCE_LEVEL / len(p_holm)
            smallest = smallest_detectable_effect(difference.deviation, len(difference.seeds), level=level)
        score = estimate_mean(list(by_seed.values()))
        arms.append(
            ArmReport(name, planned_runs, by_seed, score, difference, p_holm.get(name), smallest, verdict)
        )  # fmt: skip
    return tuple(arms)


def correct_p_values(differences: Mapping[str, Difference | None]) -> dict[str, float]:
    """p-values after Holm's correction over the arms that could be tested."""
    return holm_correction({name: one.p for name, one in differences.items() if one and one.p is not None})
