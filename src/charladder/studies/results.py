"""The results of a study's runs, read from their run directories.

Shapes: P points of a curve.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charladder.errors import UserError
from charladder.input_files import read_bytes
from charladder.recipe import Recipe
from charladder.run import open_run
from charladder.studies.plan import Plan, run_directory_name
from charladder.training.metrics import is_number, is_validation, read_metrics

TRAIN_BITS_STEPS = 10  # logged steps at the end of training whose mean is `train_bits`

GradientNorms = dict[str, float]  # "layer3" -> norm of the gradient


@dataclass(frozen=True)
class Curve:
    """Points of one run, in their order: bits per character after so many steps, characters and seconds of training.

    All arrays are (P,). Seconds are NaN where they were not recorded.
    """

    steps_P: np.ndarray
    characters_P: np.ndarray
    seconds_P: np.ndarray
    bits_P: np.ndarray


@dataclass(frozen=True)
class RunCurves:
    """The contents of a run's metrics.jsonl.

    steps, characters, seconds: of training, up to the last line. terms: bits of training batches, by name of the term.
    validations: scores during training, all of the same prefix of the valid part. whole_score: the last line that
    scores the whole valid part. final_score: the last score at the end of training, of the whole part or of a prefix.
    gradient_norms: progress and norms of all terms together; main_gradient_norms: of the main loss alone.
    """

    steps: int
    characters: int
    seconds: float
    terms: dict[str, Curve]
    validations: Curve
    whole_score: dict[str, Any] | None
    final_score: dict[str, Any] | None
    gradient_norms: tuple[tuple[float, GradientNorms], ...]
    main_gradient_norms: tuple[tuple[float, GradientNorms], ...]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of one arm with one seed.

    bits: per character, of the whole valid part, which has `scored_characters`. train_bits: of the last logged training
    batches. environment: environment.json, with versions, machine and data.
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
        """Characters a second of training; None where no seconds were recorded."""
        return self.curves.characters / self.curves.seconds if self.curves.seconds else None


@dataclass(frozen=True)
class MissingRun:
    """A planned run without a result, and the reason."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True)
class StudyResults:
    """All planned runs of the study in `folder`."""

    folder: Path
    finished: tuple[FinishedRun, ...]
    missing: tuple[MissingRun, ...]

    def of_arm(self, arm: str) -> tuple[FinishedRun, ...]:
        """The finished runs of an arm, in the order of the plan's seeds."""
        return tuple(run for run in self.finished if run.arm == arm)


def collect_results(folder: Path, plan: Plan) -> StudyResults:
    """Reads every run of a plan from the study's folder, arm by arm."""
    runs = [_read_run(folder, arm.name, seed) for arm in plan.arms for seed in plan.seeds]
    finished = tuple(run for run in runs if isinstance(run, FinishedRun))
    return StudyResults(folder, finished, tuple(run for run in runs if isinstance(run, MissingRun)))


def _read_run(folder: Path, arm: str, seed: int) -> FinishedRun | MissingRun:
    path = folder / run_directory_name(arm, seed)
    if not path.exists():
        return MissingRun(arm, seed, "not started")
    try:
        recipe = open_run(path).recipe
        environment = json.loads(read_bytes(path / "environment.json"))
        curves = read_curves(path) if (path / "metrics.jsonl").exists() else None
    except (UserError, OSError, ValueError, RecursionError) as error:
        return MissingRun(arm, seed, f"unreadable: {error}")
    if not isinstance(environment, dict):
        return MissingRun(arm, seed, "unreadable: environment.json is not a JSON object")
    if recipe.training.seed != seed:
        return MissingRun(arm, seed, f"unreadable: {path} was trained with seed {recipe.training.seed}")
    score = curves.whole_score if curves else None
    # A run that is being trained for longer has a score from before its last step.
    if curves is None or score is None or score["step"] < curves.steps or "main" not in curves.terms:
        return MissingRun(arm, seed, f"unfinished at step {curves.steps if curves else 0:,}")
    characters: Any = score.get("characters")
    return FinishedRun(
        arm=arm,
        seed=seed,
        path=path,
        recipe=recipe,
        bits=float(score["bits_per_character"]),
        scored_characters=int(characters) if is_number(characters) else 0,
        train_bits=float(curves.terms["main"].bits_P[-TRAIN_BITS_STEPS:].mean()),
        curves=curves,
        environment=environment,
    )


def read_curves(path: Path) -> RunCurves:
    """Reads the curves of a run, finished or not. Raises OSError where there is no metrics.jsonl."""
    lines = read_metrics(path / "metrics.jsonl")
    steps = [line for line in lines if "split" not in line and is_number(line.get("characters"))]
    seconds = {line["step"]: float(line["seconds"]) for line in steps if is_number(line.get("seconds"))}
    names = dict.fromkeys(name for line in steps for name in line.get("terms", {}))
    terms = {
        name: _make_curve(
            (line["step"], line["characters"], seconds.get(line["step"]), line["terms"][name]["bits"])
            for line in steps
            if name in line.get("terms", {})
        )
        for name in names
    }
    valid = [line for line in lines if line.get("split") == "valid"]
    validations = _make_curve(
        (line["step"], line["trained_characters"], _seconds_at(line["step"], seconds), line["bits_per_character"])
        for line in valid
        if is_validation(line)
    )
    final_scores = [line for line in valid if not is_validation(line) and math.isfinite(line["bits_per_character"])]
    whole_scores = [line for line in final_scores if not line.get("part")]
    last = steps[-1] if steps else {"step": 0, "characters": 0}
    return RunCurves(
        steps=last["step"],
        characters=int(last["characters"]),
        seconds=max(seconds.values(), default=0.0),
        terms=terms,
        validations=validations,
        whole_score=whole_scores[-1] if whole_scores else None,
        final_score=final_scores[-1] if final_scores else None,
        gradient_norms=_read_gradient_norms(steps, "gradient_norms"),
        main_gradient_norms=_read_gradient_norms(steps, "gradient_norms_without"),
    )


def _seconds_at(step: int, seconds: dict[int, float]) -> float | None:
    """Seconds of training at the end of a step, interpolated between logged steps; None outside of them."""
    if not seconds or not min(seconds) <= step <= max(seconds):
        return None
    return float(np.interp(step, list(seconds), list(seconds.values())))


def _make_curve(points: Iterable[tuple[float, float, float | None, float]]) -> Curve:
    """The curve of points (step, characters, seconds, bits), without those whose bits are not finite."""
    rows = [
        (step, characters, math.nan if seconds is None else seconds, bits)
        for step, characters, seconds, bits in points
        if math.isfinite(bits)
    ]
    return Curve(*np.array(rows, dtype=np.float64).reshape(-1, 4).T)


def _read_gradient_norms(steps: list[dict[str, Any]], name: str) -> tuple[tuple[float, GradientNorms], ...]:
    """Progress and norms by layer of the lines that have the diagnosis `name`."""
    return tuple((float(line["progress"]), norms) for line in steps if (norms := _norms_of_line(line, name)))


def _norms_of_line(line: dict[str, Any], name: str) -> GradientNorms:
    """The norms by layer in a line of metrics.jsonl; empty where they are missing or damaged."""
    diagnosis = line.get("diagnosis")
    norms = diagnosis.get(name) if isinstance(diagnosis, dict) else None
    if not isinstance(norms, dict) or not is_number(line.get("progress")):
        return {}
    norms = {layer: norm for layer, norm in norms.items() if re.fullmatch(r"layer\d{1,5}", layer)}
    return norms if all(is_number(norm) and math.isfinite(norm) for norm in norms.values()) else {}
