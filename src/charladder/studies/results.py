"""What the runs of a plan have come to, read from their directories alone; what is missing is a named gap.

Shapes: P points of a curve.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charladder.errors import UserError
from charladder.input_files import read_bytes
from charladder.recipe import Recipe
from charladder.run import open_run
from charladder.studies.plan import Plan, run_directory_name
from charladder.training.metrics import is_validation, number, read_metrics

TRAIN_BITS_STEPS = 10  # logged steps whose mean is the training loss at the end


@dataclass(frozen=True)
class Curve:
    """Points of one run in their order, each (P,): after how many steps, characters and seconds of training, and bits
    per character there."""

    steps_P: np.ndarray
    characters_P: np.ndarray
    seconds_P: np.ndarray
    bits_P: np.ndarray


@dataclass(frozen=True)
class RunCurves:
    """metrics.jsonl of a run. steps, characters, seconds: of training, up to its last line. terms: bits of training
    batches by name of the term. valid: the stretch that is scored on the way. whole: the last line that scores the
    whole valid part, None before there is one. final: the last score at the end of training, of the whole part or of a
    stretch. norms: progress, and the norm of the gradient by layer, where it was
    measured; alone: the same of the main loss without the others."""

    steps: int
    characters: int
    seconds: float
    terms: dict[str, Curve]
    validations: Curve
    whole_score: dict[str, Any] | None
    gradient_norms: tuple[tuple[float, dict[str, float]], ...]
    main_gradient_norms: tuple[tuple[float, dict[str, float]], ...] = ()
    final_score: dict[str, Any] | None = None


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of an arm and a seed.

    bits: per character, of the whole valid part, of which `scored` characters; train_bits: of the last training
    batches that were logged. environment: versions, machine and data, as the run began with them.
    """

    arm: str
    seed: int
    path: Path
    recipe: Recipe
    bits: float
    scored_characters: int
    train_bits: float
    curves: RunCurves
    environment: dict[str, Any]

    @property
    def characters_per_second(self) -> float | None:
        """Characters a second in training; None where no time was written down."""
        return self.curves.characters / self.curves.seconds if self.curves.seconds else None


@dataclass(frozen=True)
class MissingRun:
    """A run that is planned and cannot be counted, and why."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True)
class StudyResults:
    folder: Path
    finished: tuple[FinishedRun, ...]
    missing: tuple[MissingRun, ...]

    def of_arm(self, arm: str) -> tuple[FinishedRun, ...]:
        """The finished runs of an arm, by seed as planned."""
        return tuple(result for result in self.finished if result.arm == arm)


def collect_results(folder: Path, plan: Plan) -> StudyResults:
    """Reads every run of a plan in its folder, arm by arm."""
    all_of_them = [_read_run(folder, arm.name, seed) for arm in plan.arms for seed in plan.seeds]
    return StudyResults(
        folder,
        tuple(one for one in all_of_them if isinstance(one, FinishedRun)),
        tuple(one for one in all_of_them if isinstance(one, MissingRun)),
    )


def _read_run(folder: Path, arm: str, seed: int) -> FinishedRun | MissingRun:
    path = folder / run_directory_name(arm, seed)
    if not path.exists():
        return MissingRun(arm, seed, "not begun")
    try:
        recipe = open_run(path).recipe
        environment = json.loads(read_bytes(path / "environment.json"))
        curves = read_curves(path) if (path / "metrics.jsonl").exists() else None
    except UserError as error:
        return MissingRun(arm, seed, f"unreadable: {error}")
    except (OSError, ValueError, RecursionError) as error:
        return MissingRun(arm, seed, f"unreadable: {error}")
    if not isinstance(environment, dict):
        return MissingRun(arm, seed, "unreadable: environment.json does not say with what the run began")
    if recipe.training.seed != seed:
        return MissingRun(arm, seed, f"unreadable: {path} was trained with seed {recipe.training.seed}")
    steps = 0 if curves is None else curves.steps
    # A score from before the last step is one of a run that was then to go on for longer, and has not got there.
    if curves is None or curves.whole_score is None or curves.whole_score["step"] < steps or "main" not in curves.terms:
        return MissingRun(arm, seed, f"unfinished at step {steps:,}")
    train_bits = float(curves.terms["main"].bits_P[-TRAIN_BITS_STEPS:].mean())
    scored = int(curves.whole_score.get("characters") or 0) if number(curves.whole_score.get("characters")) else 0
    bits = float(curves.whole_score["bits_per_character"])
    return FinishedRun(arm, seed, path, recipe, bits, scored, train_bits, curves, environment)


def read_curves(path: Path) -> RunCurves:
    """The curves of a run, finished or not. Raises OSError where there are no metrics."""
    lines = read_metrics(path / "metrics.jsonl")
    steps = [line for line in lines if "split" not in line and number(line.get("characters"))]
    times = {line["step"]: float(line["seconds"]) for line in steps if number(line.get("seconds"))}
    names = dict.fromkeys(name for line in steps for name in line.get("terms", {}))
    terms = {
        name: _make_curve(
            (line["step"], line["characters"], times.get(line["step"]), line["terms"][name]["bits"])
            for line in steps
            if name in line.get("terms", {})
        )
        for name in names
    }
    valid = [line for line in lines if line.get("split") == "valid"]
    parts = _make_curve(
        (line["step"], line["trained_characters"], _seconds_at_step(line["step"], times), line["bits_per_character"])
        for line in valid
        if is_validation(line)
    )
    finals = [line for line in valid if not is_validation(line) and math.isfinite(line["bits_per_character"])]
    wholes = [line for line in finals if not line.get("part")]
    last = steps[-1] if steps else {"step": 0, "characters": 0}
    return RunCurves(
        steps=last["step"],
        characters=int(last["characters"]),
        seconds=max(times.values(), default=0.0),
        terms=terms,
        validations=parts,
        whole_score=wholes[-1] if wholes else None,
        final_score=finals[-1] if finals else None,
        gradient_norms=_gradient_norms(steps, "gradient_norms"),
        main_gradient_norms=_gradient_norms(steps, "gradient_norms_without"),
    )


def _seconds_at_step(step: int, times: dict[int, float]) -> float | None:
    """At what second of training a step ended: one that was not logged, between the two logged ones around it."""
    if not times or not min(times) <= step <= max(times):
        return None
    return float(np.interp(step, list(times), list(times.values())))


def _make_curve(points: Any) -> Curve:
    """A curve of (step, characters, seconds, bits), without points that are no numbers; seconds may be unknown, NaN."""
    kept = [
        (step, characters, math.nan if seconds is None else seconds, bits)
        for step, characters, seconds, bits in points
        if math.isfinite(bits)
    ]
    return Curve(*np.array(kept, dtype=np.float64).reshape(-1, 4).T)


def _gradient_norms(steps: list[dict[str, Any]], name: str) -> tuple[tuple[float, dict[str, float]], ...]:
    """Progress and norms of a gradient by layer, of the lines that have them."""
    return tuple((float(line["progress"]), norms) for line in steps if (norms := _norms_of_line(line, name)))


def _norms_of_line(line: dict[str, Any], name: str) -> dict[str, float]:
    """The norms of a gradient by layer that a line has; none where they were not measured, or are damaged."""
    diagnosis = line.get("diagnosis")
    norms = diagnosis.get(name) if isinstance(diagnosis, dict) else None
    if not isinstance(norms, dict) or not number(line.get("progress")):
        return {}
    norms = {layer: norm for layer, norm in norms.items() if re.fullmatch(r"layer\d{1,5}", layer)}
    return norms if all(number(norm) and math.isfinite(norm) for norm in norms.values()) else {}
