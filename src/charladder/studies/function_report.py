"""The report of a study of a training function, computed from the records of its runs."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charladder.studies.power import MIN_SEEDS_FOR_PLAN, POWER, seeds_needed
from charladder.studies.records import FINISHED, PlannedCall, RunRecord
from charladder.studies.report import ArmReport, CurveFigure, StudyReport, compare_arms
from charladder.studies.results import MissingRun
from charladder.studies.statistics import (
    SIGNIFICANCE_LEVEL,
    Metric,
    estimate_mean,
    is_significant,
    paired_difference,
)

RecordedCall = tuple[PlannedCall, RunRecord]
_MAX_DECIMALS = 12
_MAX_VALUE = 1e150  # the squares of larger ones, of which a deviation is made, overflow
_MAX_RUNS_NAMED = 5


@dataclass(frozen=True)
class FunctionStudy:
    """The question of a study. arms: the settings by name. effect: the difference that would matter, or None.
    source_sha256: of the current source of the function. unseen: names of values bound to the function that are not
    compared."""

    train_name: str
    arms: Mapping[str, Any]
    seeds: tuple[int, ...]
    metric: str
    higher_is_better: bool
    baseline: str
    effect: float | None
    folder: Path
    source_sha256: str | None
    unseen: tuple[str, ...]


def build_function_report(study: FunctionStudy, recorded: Sequence[RecordedCall]) -> StudyReport:
    """Computes all numbers of a report."""
    reasons = {(call.arm, call.seed): _reason_for_missing(record, study.metric) for call, record in recorded}
    finished = [one for one in recorded if reasons[one[0].arm, one[0].seed] is None]
    values = {
        arm: {call.seed: record.metrics[study.metric] for call, record in finished if call.arm == arm}
        for arm in study.arms
    }
    seconds = {arm: [record.seconds for call, record in finished if call.arm == arm] for arm in study.arms}
    metric = Metric(study.metric, study.higher_is_better, _choose_decimals(values, study.baseline))
    arms = [
        dataclasses.replace(one, seconds=estimate_mean(seconds[one.name]), verdict=_answer(one, metric, study))
        for one in compare_arms(values, study.baseline, len(study.seeds), metric, study.effect)
    ]
    missing = tuple(MissingRun(arm, seed, reason) for (arm, seed), reason in reasons.items() if reason)
    direction = "higher" if study.higher_is_better else "lower"
    return StudyReport(
        name=study.train_name,
        question="",
        rule="",
        metric=metric,
        score_note=f"{study.metric} is the last value that the training function gave; {direction} is better.",
        baseline=study.baseline,
        seeds=study.seeds,
        arms=tuple(arms),
        curves=_curve_figures(study, finished),
        missing=missing,
        warnings=(
            *_warnings_of_missing(missing),
            *_warnings_of_changes(study, recorded),
            *_warnings_of_values(study, finished, values),
        ),
        provenance=_provenance(study, finished),
        command=_command(study),
        seeds_needed=_seeds_needed(study, arms),
    )


def _reason_for_missing(record: RunRecord, metric: str) -> str | None:
    """Why a run has no value to compare; None where it has one."""
    if record.state != FINISHED:
        return record.error or record.state
    if metric not in record.metrics:
        return f"what it yielded last has no {metric} that is a number"
    value = record.metrics[metric]
    if not math.isfinite(value):
        return f"its {metric} is not a finite number"
    return None if abs(value) <= _MAX_VALUE else f"its {metric} is {value:g}, which is too large to compare"


def _choose_decimals(values: Mapping[str, Mapping[int, float]], baseline: str) -> int:
    """Decimals that show three digits of the smallest spread of a difference, or of the values where none differs."""
    found = [paired_difference(by_seed, values[baseline]) for name, by_seed in values.items() if name != baseline]
    sizes = [abs(value) for by_seed in values.values() for value in by_seed.values() if value]
    if not sizes:
        return 4
    rounding = 1e-9 * max(sizes)  # a spread below it is that of the last bits
    spreads = [one.deviation for one in found if one is not None and (one.deviation or 0.0) > rounding] or sizes
    return min(max(2 - math.floor(math.log10(min(filter(None, spreads)))), 0), _MAX_DECIMALS)


def _answer(one: ArmReport, metric: Metric, study: FunctionStudy) -> str:
    """The verdict, which begins with `helps` or `harms` where it claims one of them, with the number of seeds if some
    are missing."""
    if one.difference is None:
        return one.verdict
    done, planned = len(one.difference.seeds), len(study.seeds)
    if is_significant(one.difference, one.p_holm):
        claim = f"{'helps' if metric.is_better(one.difference.mean) else 'harms'}: {one.verdict}"
        return claim if done == planned else f"{claim} of {planned}"
    return one.verdict if done == planned else f"{one.verdict}; {done} of {planned} seeds have results"


def arms_tested(arms: Sequence[ArmReport]) -> int:
    """The number of arms over which Holm's correction is."""
    return sum(one.p_holm is not None for one in arms)


def _seeds_needed(study: FunctionStudy, arms: Sequence[ArmReport]) -> tuple[str, ...]:
    """A sentence for each arm on the seeds that the effect of the study needs."""
    if study.effect is None:
        return ()
    sentences = []
    for one in arms:
        difference = one.difference
        if difference is None:
            continue
        done = len(difference.seeds)
        if difference.deviation is None or done < MIN_SEEDS_FOR_PLAN:
            sentences.append(f"{one.name}: {MIN_SEEDS_FOR_PLAN} seeds are needed to plan; there are {done}")
            continue
        level = SIGNIFICANCE_LEVEL / arms_tested(arms)
        needed = seeds_needed(study.effect, difference.deviation, level=level)
        many = "more than a million seeds" if needed is None else f"{needed} seeds"
        more = "" if needed is None else ", none more" if needed <= done else f", {needed - done} more"
        sentences.append(
            f"{one.name}: to show a difference of {study.effect:g} with a probability of {POWER:.0%}: {many}{more}"
        )
    return tuple(sentences)


def _curve_figures(study: FunctionStudy, finished: Sequence[RecordedCall]) -> tuple[CurveFigure, ...]:
    """The metric over steps, where the function yields it."""
    curves: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {arm: [] for arm in study.arms}
    for call, record in finished:
        points = [(step, metrics.get(study.metric, math.nan)) for step, metrics in record.curve]
        steps_P, values_P = np.array(points, dtype=np.float64).reshape(-1, 2).T
        finite_P = np.abs(values_P) <= _MAX_VALUE  # False for NaN
        curves[call.arm].append((steps_P[finite_P], values_P[finite_P]))
    figure = CurveFigure(
        "curves", "step", study.metric, f"{study.metric} over steps, by arm, with 95% bands",
        "Curves: means over runs (their number in brackets) with 95% intervals, where all runs of an arm have points "
        "on both sides.",
        "The training function yields no curves of the metric.",
        curves,
        fit_to_end=True,
    )  # fmt: skip
    return (figure,)


def _warnings_of_missing(missing: Sequence[MissingRun]) -> tuple[str, ...]:
    if not missing:
        return ()
    named = ", ".join(f"{run.arm} seed {run.seed}" for run in missing[:_MAX_RUNS_NAMED])
    more = f" and {len(missing) - _MAX_RUNS_NAMED} more" if len(missing) > _MAX_RUNS_NAMED else ""
    return (f"runs without a result are left out, which may favour their arm: {named}{more}",)


def _warnings_of_changes(study: FunctionStudy, recorded: Sequence[RecordedCall]) -> tuple[str, ...]:
    """Sentences on differences between the finished runs and the current function."""
    warnings, kept = [], [record for _, record in recorded if record.state == FINISHED]
    changed = sum(record.source_sha256 != study.source_sha256 for record in kept)
    if study.source_sha256 is not None and changed:
        warnings.append(
            f"the code of {study.train_name}, or a value bound to it, has changed since {changed} of {len(kept)} runs, "
            "which were not repeated; to repeat them, delete their files or give another folder"
        )
    if study.unseen:
        warnings.append(
            f"changes of {', '.join(study.unseen)}, bound to {study.train_name}, are not seen; after such a change "
            "give another folder"
        )
    if len({tuple(record.versions.items()) for record in kept}) > 1:
        warnings.append("the runs differ in the versions of libraries, so their numbers may not be comparable")
    return tuple(warnings)


def _warnings_of_values(
    study: FunctionStudy, finished: Sequence[RecordedCall], values: Mapping[str, Mapping[int, float]]
) -> tuple[str, ...]:
    """Sentences on values that are suspicious."""
    warnings = []
    last_steps = {record.curve[-1][0]: f"{call.arm} seed {call.seed}" for call, record in finished if record.curve}
    if len(last_steps) > 1:
        first, last = min(last_steps), max(last_steps)
        warnings.append(
            f"the runs end at different steps, from {first:g} ({last_steps[first]}) to {last:g} ({last_steps[last]}), "
            "so their numbers may not be comparable"
        )
    for arm, by_seed in values.items():
        if len(by_seed) > 1 and len(set(by_seed.values())) == 1:
            warnings.append(f"all seeds of {arm} have the same {study.metric}; does train use its seed?")
        if arm != study.baseline and by_seed and by_seed == values[study.baseline]:
            warnings.append(f"{arm} has the same values as {study.baseline}; does train use the settings of the arm?")
    return tuple(warnings)


def _provenance(study: FunctionStudy, finished: Sequence[RecordedCall]) -> tuple[tuple[str, str], ...]:
    versions = dict.fromkeys(
        ", ".join(f"{name} {version}" for name, version in record.versions.items()) for _, record in finished
    )
    return (
        ("training function", study.train_name),
        ("arms", "; ".join(f"{name}: {settings}" for name, settings in study.arms.items())),
        ("baseline", study.baseline),
        ("seeds", ", ".join(map(str, study.seeds))),
        ("runs", f"{len(finished)} finished, in {study.folder}"),
        ("versions", "; ".join(versions) or "unknown: no run has finished"),
    )


def _command(study: FunctionStudy) -> str:
    """The call of studies.run, as Python."""
    lines = [
        "studies.run(",
        f"    {study.train_name.rpartition('.')[2]},",
        f"    arms={dict(study.arms)!r},",
        f"    seeds={list(study.seeds)!r},",
        f"    metric={study.metric!r},",
        f"    higher_is_better={study.higher_is_better!r},",
        f"    baseline={study.baseline!r},",
        *([f"    effect={study.effect!r},"] if study.effect is not None else []),
        ")",
    ]
    return "\n".join(lines)
