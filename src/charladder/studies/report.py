"""The report of a plan: every number that its pages, tables and pictures show."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from charladder.studies.plan import Arm, Contrast, Plan
from charladder.studies.results import FinishedRun, MissingRun, StudyResults
from charladder.studies.statistics import (
    Difference,
    Estimate,
    estimate_mean,
    first_crossing,
    holm_correction,
    make_verdict,
    paired_difference,
)


@dataclass(frozen=True)
class LevelReached:
    """When the runs of an arm come down to the level of the baseline: characters and seconds of training, in the mean
    where all `of` them do; what only some reach has no mean, for it would be that of the fastest."""

    reached_by: int
    runs: int
    characters: float | None
    seconds: float | None


@dataclass(frozen=True)
class ArmReport:
    """One arm. Bits are per character: `bits` of the whole valid part, `train_bits` of the last training batches.
    seconds, speed: of training, characters a second. difference: of bits, to the baseline; None for itself. timed: the
    same at equal seconds, of the stretch that is scored on the way."""

    arm: Arm
    runs: tuple[FinishedRun, ...]
    bits: Estimate | None
    train_bits: Estimate | None
    difference: Difference | None
    p_holm: float | None
    difference_at_equal_seconds: Difference | None
    p_holm_at_equal_seconds: float | None
    verdict: str
    seconds: Estimate | None
    characters_per_second: Estimate | None
    level_reached: LevelReached


@dataclass(frozen=True)
class ContrastReport:
    """A contrast of the plan, in bits of the whole valid part and in those of the last training batches."""

    contrast: Contrast
    bits: Difference | None
    train_bits: Difference | None


@dataclass(frozen=True)
class StudyReport:
    """level: bits per character of the baseline's runs, in the mean, where the stretch of the valid part that is scored
    on the way was scored last. facts: what stands at the head, as (name, text)."""

    plan: Plan
    provenance: tuple[tuple[str, str], ...]
    arms: tuple[ArmReport, ...]
    contrasts: tuple[ContrastReport, ...]
    missing: tuple[MissingRun, ...]
    warnings: tuple[str, ...]
    level: float | None
    command: str


def build_report(plan: Plan, results: StudyResults) -> StudyReport:
    """All numbers of a report."""
    baseline = {result.seed: result.bits for result in results.of_arm(plan.baseline)}
    differences = {
        arm.name: paired_difference({result.seed: result.bits for result in results.of_arm(arm.name)}, baseline)
        for arm in plan.arms
        if arm.name != plan.baseline
    }
    timed = {name: at_equal_seconds(results.of_arm(name), results.of_arm(plan.baseline)) for name in differences}
    corrected, timed_corrected = (
        holm_correction({name: one.p for name, one in found.items() if one is not None and one.p is not None})
        for found in (differences, timed)
    )
    level = level_of(results.of_arm(plan.baseline))
    arms = tuple(
        arm_report(
            plan,
            arm,
            results.of_arm(arm.name),
            differences.get(arm.name),
            corrected.get(arm.name),
            timed.get(arm.name),
            timed_corrected.get(arm.name),
            level,
        )
        for arm in plan.arms
    )
    command = f"charladder study {shlex.quote(str(results.folder / 'plan.toml'))}"
    contrasts = tuple(contrast_report(one, results) for one in plan.contrasts)
    return StudyReport(
        plan, facts(plan, results), arms, contrasts, results.missing, warnings(results.finished), level, command
    )


def contrast_report(contrast: Contrast, results: StudyResults) -> ContrastReport:
    """Of the seeds for which all arms of it have finished."""

    def sums(arms: tuple[str, ...], name: str) -> dict[int, float]:
        several = [{run.seed: float(getattr(run, name)) for run in results.of_arm(arm)} for arm in arms]
        return {seed: sum(one[seed] for one in several) for seed in several[0] if all(seed in one for one in several)}

    bits, train_bits = (
        paired_difference(sums(contrast.plus, name), sums(contrast.minus, name)) for name in ("bits", "train_bits")
    )
    return ContrastReport(contrast, bits, train_bits)


def arm_report(
    plan: Plan,
    arm: Arm,
    runs: tuple[FinishedRun, ...],
    difference: Difference | None,
    corrected: float | None,
    timed: Difference | None,
    timed_corrected: float | None,
    level: float | None,
) -> ArmReport:
    said = "the baseline" if arm.name == plan.baseline else make_verdict(difference, corrected, plan.baseline)
    return ArmReport(
        arm,
        runs,
        estimate_mean([run.bits for run in runs]),
        estimate_mean([run.train_bits for run in runs]),
        difference,
        corrected,
        timed,
        timed_corrected,
        said if runs else "no finished run",
        estimate_mean([run.curves.seconds for run in runs]),
        estimate_mean([run.characters_per_second for run in runs if run.characters_per_second is not None]),
        reached(runs, level),
    )


def at_equal_seconds(runs: Iterable[FinishedRun], baseline: Iterable[FinishedRun]) -> Difference | None:
    """Bits of the stretch at the second at which the baseline's run of the same seed was scored last, or the arm's own
    if that is earlier; each read between two measured points of its run. None where no seconds were written down."""
    curves = {run.seed: run.curves.validations for run in baseline if len(run.curves.validations.bits_P)}
    own, theirs = {}, {}
    for run in runs:
        mine, other = run.curves.validations, curves.get(run.seed)
        if other is None or not len(mine.bits_P):
            continue
        until = min(mine.seconds_P[-1], other.seconds_P[-1])
        if until >= max(mine.seconds_P[0], other.seconds_P[0]):  # false where they are unknown, too
            own[run.seed] = float(np.interp(until, mine.seconds_P, mine.bits_P))
            theirs[run.seed] = float(np.interp(until, other.seconds_P, other.bits_P))
    return paired_difference(own, theirs)


def level_of(runs: Iterable[FinishedRun]) -> float | None:
    """The mean of the last scores of the stretch. The whole part's score is no point of that curve: it is of another
    text, and may differ by more than arms do."""
    last = [float(run.curves.validations.bits_P[-1]) for run in runs if len(run.curves.validations.bits_P)]
    return sum(last) / len(last) if last else None


def reached(runs: tuple[FinishedRun, ...], level: float | None) -> LevelReached:
    if level is None:
        return LevelReached(0, len(runs), None, None)
    curves = [run.curves.validations for run in runs]
    characters = [x for one in curves if (x := first_crossing(one.characters_P, one.bits_P, level)) is not None]
    seconds = [x for one in curves if (x := first_crossing(one.seconds_P, one.bits_P, level)) is not None]
    whole = bool(runs) and len(characters) == len(runs)
    return LevelReached(
        len(characters),
        len(runs),
        sum(characters) / len(characters) if whole else None,
        sum(seconds) / len(seconds) if whole else None,
    )


def facts(plan: Plan, results: StudyResults) -> tuple[tuple[str, str], ...]:
    """What was asked of what, on which text and machine: of the plan, and of what the runs wrote down."""
    found = results.finished
    return (
        ("question", plan.question),
        ("rule", plan.rule),
        ("base", f"{plan.base}" + (f", with {fields_text(plan.fields)}" if plan.fields else "")),
        ("arms", "; ".join(f"{arm.name}: {fields_text(arm.fields) or 'the base itself'}" for arm in plan.arms)),
        ("baseline", plan.baseline),
        ("budget", several(budget(result) for result in found)),
        ("seeds", ", ".join(map(str, plan.seeds))),
        ("data", several(entry(result, "data", "name") for result in found)),
        ("SHA-256 of the data", several(entry(result, "data", "sha256") for result in found)),
        ("machine", several(machine(result) for result in found)),
        ("versions", several(versions(result) for result in found)),
    )


def fields_text(fields: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in fields.items())


def several(texts: Iterable[str]) -> str:
    """All that differ, once each."""
    return "; ".join(dict.fromkeys(texts)) or "no finished run says so"


def entry(result: FinishedRun, *keys: str) -> str:
    found: Any = result.environment
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return "unknown" if found is None else str(found)


def budget(result: FinishedRun) -> str:
    training = result.recipe.training
    if training.minutes:
        return f"{training.minutes:g} minutes"
    return f"{training.steps:,} steps" if training.steps else f"{training.characters:,} characters"


def machine(result: FinishedRun) -> str:
    names = {"processor": "", "capability": "", "threads": " threads", "gpu": "", "steps": ""}
    found = {name: entry(result, "machine", name) for name in names}
    return ", ".join(f"{found[name]}{unit}" for name, unit in names.items() if found[name] != "unknown") or "unknown"


def versions(result: FinishedRun) -> str:
    found = result.environment.get("versions")
    several = dict(found) if isinstance(found, dict) else {}
    return ", ".join(f"{name} {version}" for name, version in {"python": entry(result, "python"), **several}.items())


def warnings(found: tuple[FinishedRun, ...]) -> tuple[str, ...]:
    """In what the runs of one plan differ and should not."""
    checks = {
        "the data (SHA-256)": [entry(result, "data", "sha256") for result in found],
        "the machine": [entry(result, "machine") for result in found],
        "the versions of libraries": [versions(result) for result in found],
        "the revision of charladder": [entry(result, "git") for result in found],
        "the number of characters that are scored": [str(result.scored_characters) for result in found],
    }
    return tuple(
        f"the runs differ in {what}, and so their numbers may not be comparable"
        for what, values in checks.items()
        if len(set(values)) > 1
    )
