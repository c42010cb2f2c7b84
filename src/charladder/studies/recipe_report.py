"""The report of a study of recipes, computed from its run directories."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from charladder.shell_words import quote_path
from charladder.studies.plan import Contrast, Plan
from charladder.studies.report import (
    ContrastReport,
    CurveFigure,
    LevelReached,
    NormsByThird,
    StudyReport,
    TrainingReport,
    compare_arms,
    correct_p_values,
)
from charladder.studies.results import Curve, FinishedRun, GradientNorms, StudyResults
from charladder.studies.statistics import (
    BITS_PER_CHARACTER,
    Difference,
    estimate_mean,
    first_crossing,
    paired_difference,
)

SCORE_NOTE = "Bits per character are of the whole valid part, scored once at the end of a run; fewer are better."
_MAX_TRAINING_POINTS = 50  # of a training curve: means of neighbouring logged steps


def build_report(plan: Plan, results: StudyResults) -> StudyReport:
    """Computes all numbers of a report."""
    runs = {arm.name: results.of_arm(arm.name) for arm in plan.arms}
    baseline = runs[plan.baseline]
    values = {name: {run.seed: run.bits for run in several} for name, several in runs.items()}
    at_equal_seconds = {
        name: _difference_at_equal_seconds(several, baseline) for name, several in runs.items() if name != plan.baseline
    }
    p_holm = correct_p_values(at_equal_seconds)
    level = _baseline_level(baseline)
    arms = [
        dataclasses.replace(
            one,
            seconds=estimate_mean([run.curves.seconds for run in runs[one.name]]),
            training=_report_training(runs[one.name], at_equal_seconds.get(one.name), p_holm.get(one.name), level),
        )
        for one in compare_arms(values, plan.baseline, len(plan.seeds), BITS_PER_CHARACTER)
    ]
    return StudyReport(
        name=plan.name,
        question=plan.question,
        rule=plan.rule,
        metric=BITS_PER_CHARACTER,
        score_note=SCORE_NOTE,
        baseline=plan.baseline,
        seeds=plan.seeds,
        arms=tuple(arms),
        curves=_curve_figures(runs),
        missing=results.missing,
        warnings=_warnings(results.finished),
        provenance=_provenance(plan, results.finished),
        command=f"charladder study {quote_path(results.folder / 'plan.toml')}",
        contrasts=tuple(_report_contrast(contrast, results) for contrast in plan.contrasts),
        level=level,
    )


def _report_training(
    runs: tuple[FinishedRun, ...], difference: Difference | None, p_holm: float | None, level: float | None
) -> TrainingReport:
    """difference, p_holm: from the baseline, at equal seconds."""
    speeds = [speed for run in runs if (speed := run.characters_per_second) is not None]
    return TrainingReport(
        runs=runs,
        train_bits=estimate_mean([run.train_bits for run in runs]),
        difference_at_equal_seconds=difference,
        p_holm_at_equal_seconds=p_holm,
        characters_per_second=estimate_mean(speeds),
        level_reached=_reach_level(runs, level),
        gradient_norms=_mean_by_third(norms for run in runs for norms in run.curves.gradient_norms),
        main_gradient_norms=_mean_by_third(norms for run in runs for norms in run.curves.main_gradient_norms),
    )


def _curve_figures(runs: dict[str, tuple[FinishedRun, ...]]) -> tuple[CurveFigure, ...]:
    """Bits over characters of training: of the validations and of the training batches."""

    def points(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
        return curve.characters_P / 1e6, curve.bits_P

    description = "Bits per character over characters trained on, by arm, with 95% bands"
    valid = CurveFigure(
        "valid", "million characters", "bits per character",
        f"{description}: scores of the first characters of the valid part",
        "Learning curves of validations, which score the first characters of the valid part: means over runs (their "
        "number in brackets) with 95% intervals, where all runs of an arm have points on both sides.",
        "No run was validated during training.",
        {name: [points(run.curves.validations) for run in several] for name, several in runs.items()},
    )  # fmt: skip
    train = CurveFigure(
        "train", "million characters", "bits per character",
        f"{description}: training batches, smoothed",
        "Learning curves of training batches: means of neighbouring steps, then over runs, with 95% intervals.",
        "No run has finished.",
        {name: [points(_smooth(run.curves.terms["main"])) for run in several] for name, several in runs.items()},
        fit_to_end=True,
    )  # fmt: skip
    return valid, train


def _smooth(curve: Curve) -> Curve:
    """Means of neighbouring points, at most _MAX_TRAINING_POINTS of them."""
    points = len(curve.bits_P)
    groups = np.array_split(np.arange(points), min(_MAX_TRAINING_POINTS, points)) if points else []
    return Curve(*(np.array([x[group].mean() for group in groups]) for x in vars(curve).values()))


def _report_contrast(contrast: Contrast, results: StudyResults) -> ContrastReport:
    """Tests a contrast over the seeds for which all of its arms have finished."""

    def sum_by_seed(arms: tuple[str, ...], name: str) -> dict[int, float]:
        by_arm = [{run.seed: float(getattr(run, name)) for run in results.of_arm(arm)} for arm in arms]
        seeds = [seed for seed in by_arm[0] if all(seed in bits for bits in by_arm)]
        return {seed: sum(bits[seed] for bits in by_arm) for seed in seeds}

    bits, train_bits = (
        paired_difference(sum_by_seed(contrast.plus, name), sum_by_seed(contrast.minus, name))
        for name in ("bits", "train_bits")
    )
    return ContrastReport(contrast, bits, train_bits)


def _difference_at_equal_seconds(runs: Iterable[FinishedRun], baseline: Iterable[FinishedRun]) -> Difference | None:
    """The difference of the validations at the second of the baseline's last one, or of the arm's if that is earlier.

    Pairs runs of the same seed, and interpolates linearly between validations. None where no seconds were recorded.
    """
    baseline_curves = {run.seed: run.curves.validations for run in baseline if len(run.curves.validations.bits_P)}
    arm_bits, baseline_bits = {}, {}
    for run in runs:
        curve, other = run.curves.validations, baseline_curves.get(run.seed)
        if other is None or not len(curve.bits_P):
            continue
        second = min(curve.seconds_P[-1], other.seconds_P[-1])
        if second >= max(curve.seconds_P[0], other.seconds_P[0]):  # false for NaN as well
            arm_bits[run.seed] = float(np.interp(second, curve.seconds_P, curve.bits_P))
            baseline_bits[run.seed] = float(np.interp(second, other.seconds_P, other.bits_P))
    return paired_difference(arm_bits, baseline_bits)


def _baseline_level(runs: Iterable[FinishedRun]) -> float | None:
    """The mean bits of the last validations. The score of the whole valid part is of another text, and may differ
    from a validation by more than the arms differ."""
    last = [float(run.curves.validations.bits_P[-1]) for run in runs if len(run.curves.validations.bits_P)]
    return sum(last) / len(last) if last else None


def _reach_level(runs: tuple[FinishedRun, ...], level: float | None) -> LevelReached:
    if level is None:
        return LevelReached(0, len(runs), None, None)
    curves = [run.curves.validations for run in runs]
    characters = [x for one in curves if (x := first_crossing(one.characters_P, one.bits_P, level)) is not None]
    seconds = [x for one in curves if (x := first_crossing(one.seconds_P, one.bits_P, level)) is not None]
    if not runs or len(characters) < len(runs):
        return LevelReached(len(characters), len(runs), None, None)
    return LevelReached(len(runs), len(runs), sum(characters) / len(runs), sum(seconds) / len(runs))


def _mean_by_third(measured: Iterable[tuple[float, GradientNorms]]) -> NormsByThird:
    """The mean norm by layer over the first, second and last third of progress; a third without norms is left out."""
    measured, means = list(measured), {}
    for third, name in enumerate(("early", "mid", "late")):
        norms = [norms for progress, norms in measured if min(2, int(3 * progress)) == third]
        layers = dict.fromkeys(layer for one in norms for layer in one)
        if layers:
            by_layer = {layer: [one[layer] for one in norms if layer in one] for layer in layers}
            means[name] = {layer.removeprefix("layer"): sum(v) / len(v) for layer, v in by_layer.items()}
    return means


def _provenance(plan: Plan, runs: tuple[FinishedRun, ...]) -> tuple[tuple[str, str], ...]:
    """The plan, and the data, machine and versions that the runs recorded."""
    return (
        ("question", plan.question),
        ("rule", plan.rule),
        ("base", f"{plan.base}" + (f", with {_format_fields(plan.fields)}" if plan.fields else "")),
        ("arms", "; ".join(f"{arm.name}: {_format_fields(arm.fields) or 'the base recipe'}" for arm in plan.arms)),
        ("baseline", plan.baseline),
        ("budget", _join_distinct(map(_budget, runs))),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("data", _join_distinct(_environment_entry(run, "data", "name") for run in runs)),
        ("SHA-256 of the data", _join_distinct(_environment_entry(run, "data", "sha256") for run in runs)),
        ("machine", _join_distinct(map(_machine, runs))),
        ("versions", _join_distinct(map(_versions, runs))),
    )


def _format_fields(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())


def _join_distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts)) or "unknown: no run has finished"


def _environment_entry(run: FinishedRun, *keys: str) -> str:
    value: Any = run.environment
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return "unknown" if value is None else str(value)


def _budget(run: FinishedRun) -> str:
    training = run.recipe.training
    if training.minutes:
        return f"{training.minutes:g} minutes"
    return f"{training.steps:,} steps" if training.steps else f"{training.characters:,} characters"


def _machine(run: FinishedRun) -> str:
    units = {"processor": "", "capability": "", "threads": " threads", "gpu": "", "steps": ""}
    values = {name: _environment_entry(run, "machine", name) for name in units}
    return ", ".join(f"{values[name]}{unit}" for name, unit in units.items() if values[name] != "unknown") or "unknown"


def _versions(run: FinishedRun) -> str:
    recorded = run.environment.get("versions")
    libraries = recorded if isinstance(recorded, dict) else {}
    versions = {"python": _environment_entry(run, "python"), **libraries}
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _warnings(runs: tuple[FinishedRun, ...]) -> tuple[str, ...]:
    """A sentence for everything that should be the same in all runs and is not."""
    checks = {
        "the data (SHA-256)": [_environment_entry(run, "data", "sha256") for run in runs],
        "the machine": [_environment_entry(run, "machine") for run in runs],
        "the versions of libraries": [_versions(run) for run in runs],
        "the revision of charladder": [_environment_entry(run, "git") for run in runs],
        "the number of characters that are scored": [str(run.scored_characters) for run in runs],
    }
    return tuple(
        f"the runs differ in {name}, so their numbers may not be comparable"
        for name, values in checks.items()
        if len(set(values)) > 1
    )
