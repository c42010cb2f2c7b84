"""The report of a plan as CSV, for other programs: all digits, an empty cell for what is not known."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from charladder.studies.report import StudyReport
from charladder.studies.report_figures import thirds


def runs_csv(report: StudyReport) -> str:
    """report.csv: a row a planned run; `gap` says why one has no numbers."""
    heads = "arm", "seed", "bits_per_character", "train_bits", "steps", "characters", "seconds", "run", "sha256", "gap"
    found = {
        (run.arm, run.seed): (
            run.bits, run.train_bits, run.curves.steps, run.curves.characters, run.curves.seconds, run.path,
            (run.environment.get("data") or {}).get("sha256"), None,
        )
        for arm in report.arms
        for run in arm.runs
    } | {(gap.arm, gap.seed): (*[None] * 7, gap.reason) for gap in report.missing}  # fmt: skip
    planned = [(arm.name, seed) for arm in report.plan.arms for seed in report.plan.seeds]
    return _to_csv(heads, ((*place, *found[place]) for place in planned))


def summary_csv(report: StudyReport) -> str:
    """summary.csv: a row an arm."""
    heads = (
        "arm", "runs", "bits_per_character", "low", "high", "difference", "difference_low", "difference_high", "pairs",
        "p", "p_holm", "verdict", "train_bits", "seconds", "characters_per_second", "reached_level",
        "characters_to_level", "seconds_to_level", "difference_at_equal_seconds", "timed_low", "timed_high",
        "timed_p_holm",
    )  # fmt: skip
    rows = []
    for one in report.arms:
        bits, difference = one.bits, one.difference
        rows.append(
            (
                one.arm.name,
                len(one.runs),
                *((bits.mean, bits.low, bits.high) if bits else (None, None, None)),
                *((difference.mean, difference.low, difference.high) if difference else (None, None, None)),
                len(difference.seeds) if difference else 0,
                difference.p if difference else None,
                one.p_holm,
                one.verdict,
                *(found.mean if found else None for found in (one.train_bits, one.seconds, one.characters_per_second)),
                one.level_reached.reached_by,
                one.level_reached.characters,
                one.level_reached.seconds,
                *(
                    (
                        one.difference_at_equal_seconds.mean,
                        one.difference_at_equal_seconds.low,
                        one.difference_at_equal_seconds.high,
                    )
                    if one.difference_at_equal_seconds
                    else (None, None, None)
                ),
                one.p_holm_at_equal_seconds,
            )
        )
    return _to_csv(heads, rows)


def gradient_norms_csv(report: StudyReport) -> str:
    """norms.csv: a row an arm, third of training and layer: the mean norm of the gradient of all terms, and of the main
    one alone, over all measurements of its runs."""
    rows = []
    for one in report.arms:
        whole = thirds([norm for run in one.runs for norm in run.curves.gradient_norms])
        alone = thirds([norm for run in one.runs for norm in run.curves.main_gradient_norms])
        for when, by_layer in whole.items():
            rows += [
                (one.arm.name, when, layer, norm, alone.get(when, {}).get(layer)) for layer, norm in by_layer.items()
            ]
    return _to_csv(("arm", "third", "layer", "norm", "norm_of_the_main_term_alone"), rows)


def _to_csv(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(rows)
    return file.getvalue()
