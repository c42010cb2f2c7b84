"""The directory of a study: plan.toml, and a run directory and a log for each arm and seed."""

import dataclasses
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from filelock import FileLock, Timeout

from charladder.atomic_io import write_text
from charladder.errors import UserError
from charladder.input_files import parse_toml, read_bytes
from charladder.recipe import Recipe, load_recipe_fields
from charladder.run import open_run
from charladder.studies.plan import Arm, Plan, resolve_recipe, run_directory_name
from charladder.studies.plan_file import plan_to_tables
from charladder.training.metrics import read_metrics

_BASE_FILE = "base.toml"  # a copy of the base recipe, where that is a file of the user


@dataclass(frozen=True)
class PlannedRun:
    """One arm with one seed, and its run directory."""

    arm: Arm
    seed: int
    path: Path

    @property
    def log_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.log")


def list_planned_runs(plan: Plan, folder: Path) -> list[PlannedRun]:
    """All runs in the order of training: seed by seed, so that an interrupted study has complete seeds, and a machine
    that becomes slower affects all arms alike."""
    return [
        PlannedRun(arm, seed, folder / run_directory_name(arm.name, seed)) for seed in plan.seeds for arm in plan.arms
    ]


@contextmanager
def open_study_directory(plan: Plan, folder: Path) -> Iterator[Plan]:
    """Creates and locks the study's directory, writes the plan there, and yields it with the copy of its base recipe.

    Raises UserError, and changes nothing, where the directory holds another plan or is locked.
    """
    check_study_directory(plan, folder)
    with lock_study_directory(folder):
        if plan.base.endswith(".toml"):
            write_text(folder / _BASE_FILE, tomli_w.dumps(_nest_fields(load_recipe_fields(plan.base))))
        write_text(folder / "plan.toml", tomli_w.dumps(_plan_file_tables(plan)))
        yield dataclasses.replace(plan, base=str(folder / _BASE_FILE)) if plan.base.endswith(".toml") else plan


@contextmanager
def lock_study_directory(folder: Path) -> Iterator[None]:
    """Creates the directory, and keeps other processes from running a study in it."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"{folder} is in use by another process; wait until it ends, or stop it") from None
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise UserError(f"the folder {str(folder)!r} cannot be used: {error}; choose another folder") from None
    try:
        yield
    finally:
        lock.release()


def _plan_file_tables(plan: Plan) -> dict[str, Any]:
    """The contents of plan.toml, in which the base recipe is the copy beside it."""
    return {**plan_to_tables(plan), **({"base": _BASE_FILE} if plan.base.endswith(".toml") else {})}


def _nest_fields(raw: dict[str, Any]) -> dict[str, Any]:
    """Fields by dotted name as nested tables."""
    tables: dict[str, Any] = {}
    for name, value in raw.items():
        section, _, field = name.rpartition(".")
        (tables.setdefault(section, {}) if section else tables)[field] = value
    return tables


def check_study_directory(plan: Plan, folder: Path) -> None:
    """Raises UserError where the directory holds another plan, or a run with other settings."""
    check_is_folder(folder)
    _check_same_plan(plan, folder)
    for run in list_planned_runs(plan, folder):
        _check_same_settings(plan, run)


def check_is_folder(folder: Path) -> None:
    """Raises UserError where the path of a study is that of a file."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, and a study needs a folder", field="out", rule="choose another folder")


def _check_same_plan(plan: Plan, folder: Path) -> None:
    """Raises UserError where plan.toml is of another plan. The new plan may have more seeds and other contrasts."""
    path = folder / "plan.toml"
    if not path.exists():
        return
    try:
        old = parse_toml(read_bytes(path), str(path))
        same_base = not (folder / _BASE_FILE).exists() or load_recipe_fields(
            str(folder / _BASE_FILE)
        ) == load_recipe_fields(plan.base)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", field="out", rule="choose another folder") from None
    new = tomllib.loads(tomli_w.dumps(_plan_file_tables(plan)))
    old_seeds, new_seeds = old.pop("seeds", None), new.pop("seeds")
    for tables in (old, new):
        tables.pop("contrasts", None)  # they are computed from the same runs
    if old != new or list(old["arms"]) != list(new["arms"]) or not same_base:
        what = next((f"its {name}" for name in new if old.get(name) != new[name]), "its base recipe")
        raise UserError(f"{folder} holds another plan ({what} differs)", field="out", rule="choose another folder")
    if not isinstance(old_seeds, list) or any(seed not in new_seeds for seed in old_seeds):
        raise UserError(
            f"{folder} has runs of the seeds {old_seeds}, and some are not in this plan",
            field="out",
            rule="choose another folder",
        )


def _check_same_settings(plan: Plan, run: PlannedRun) -> None:
    """Raises UserError where the run directory holds a run with other settings."""
    if not run.path.exists():
        return
    existing, planned = open_run(run.path).recipe, resolve_recipe(plan, run.arm, run.seed)
    if _comparable_settings(existing) != _comparable_settings(planned):
        raise UserError(
            f"{run.path} is a run with other settings than the plan's", field="out",
            rule="move it, or choose another folder",
        )  # fmt: skip


def _comparable_settings(recipe: Recipe) -> tuple[Any, ...]:
    """The settings of a run without those that `train` fills in from the data and the machine."""
    text = dataclasses.replace(recipe.text, data=(), characters=0, sha256="", files=0, letters="")
    return text, recipe.model, recipe.objective, dataclasses.replace(recipe.training, micro_batch=0)


def read_final_bits(plan: Plan, run: PlannedRun) -> float | None:
    """Bits per character of a finished run on the whole valid part; None for an unfinished run."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return None
    budget = resolve_recipe(plan, run.arm, run.seed).training
    for line in reversed(read_metrics(path)):
        # A run that was trained with a smaller budget also has a score of the whole part.
        spent = line["step"] >= budget.steps and line.get("trained_characters", 0) >= budget.characters
        scored = "split" in line and "part" not in line and math.isfinite(line["bits_per_character"])
        if scored and (spent or line.get("ended_early")):
            return line["bits_per_character"]
    return None


def read_progress(run: PlannedRun) -> tuple[float, float | None]:
    """Progress in [0, 1] and bits at the last logged step of a run."""
    path = run.path / "metrics.jsonl"
    lines = [line for line in read_metrics(path) if "terms" in line] if path.is_file() else []
    if not lines:
        return 0.0, None
    return lines[-1].get("progress", 0.0), lines[-1]["terms"]["main"]["bits"]
