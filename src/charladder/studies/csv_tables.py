"""The report of a study of recipes as CSV, for other programs: all digits, and an empty cell for an unknown value."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from charladder.studies.report import ArmReport, StudyReport, TrainingReport
from charladder.studies.statistics import Difference, Estimate


def runs_csv(report: StudyReport) -> str:
    """report.csv: a row for each planned run; `gap` says why a run has no numbers."""
    headers = (
        "arm", "seed", "bits_per_character", "train_bits", "steps", "characters", "seconds", "run", "sha256", "gap",
    )  # fmt: skip
    cells = {
        (run.arm, run.seed): (
            run.bits, run.train_bits, run.curves.steps, run.curves.characters, run.curves.seconds, run.path,
            (run.environment.get("data") or {}).get("sha256"), None,
        )
        for arm in report.arms
        if arm.training is not None
        for run in arm.training.runs
    } | {(run.arm, run.seed): (*[None] * 7, run.reason) for run in report.missing}  # fmt: skip
    planned = [(arm.name, seed) for arm in report.arms for seed in report.seeds]
    return _to_csv(headers, ((*key, *cells[key]) for key in planned))


def summary_csv(report: StudyReport) -> str:
    """summary.csv: a row for each arm."""
    headers = (
        "arm", "runs", "bits_per_character", "low", "high", "difference", "difference_low", "difference_high", "pairs",
        "p", "p_holm", "smallest_effect", "verdict", "train_bits", "seconds", "characters_per_second", "reached_level",
        "characters_to_level", "seconds_to_level", "difference_at_equal_seconds", "timed_low", "timed_high",
        "timed_p_holm",
    )  # fmt: skip
    rows = (_summary_row(one, one.training) for one in report.arms if one.training is not None)
    return _to_csv(headers, rows)


def _summary_row(one: ArmReport, training: TrainingReport) -> tuple[Any, ...]:
    difference, level = one.difference, training.level_reached
    return (
        one.name,
        len(one.values),
        *_with_interval(one.score),
        *_with_interval(difference),
        len(difference.seeds) if difference else 0,
        difference.p if difference else None,
        one.p_holm,
        one.smallest_effect,
        one.verdict,
        *(_with_interval(number)[0] for number in (training.train_bits, one.seconds, training.characters_per_second)),
        level.reached_by,
        level.characters,
        level.seconds,
        *_with_interval(training.difference_at_equal_seconds),
        training.p_holm_at_equal_seconds,
    )


def gradient_norms_csv(report: StudyReport) -> str:
    """norms.csv: a row for each arm, third of training and layer: the norm of the gradient of all terms, and of the
    main term alone, in the mean over all measurements of the arm's runs."""
    rows = [
        (one.name, third, layer, norm, one.training.main_gradient_norms.get(third, {}).get(layer))
        for one in report.arms
        if one.training is not None
        for third, norms in one.training.gradient_norms.items()
        for layer, norm in norms.items()
    ]
    return _to_csv(("arm", "third", "layer", "norm", "norm_of_the_main_term_alone"), rows)


def _with_interval(number: Estimate | Difference | None) -> tuple[float | None, float | None, float | None]:
    return (number.mean, number.low, number.high) if number else (None, None, None)


def _to_csv(headers: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows(rows)
    return file.getvalue()
