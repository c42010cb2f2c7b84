"""Checks of the arguments of `studies.run` and of the methods of its result."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charladder.errors import UserError, suggest_names
from charladder.studies.directory import check_is_folder
from charladder.studies.plan_file import parse_seeds

_MIN_SEEDS = 2  # one seed has no interval


def check_function(train: Any) -> None:
    if not callable(train):
        raise UserError(f"train is {train!r}; it must be a function of an arm's settings and a seed")


def check_arms(arms: Any) -> None:
    if not isinstance(arms, dict) or not all(isinstance(arm, str) and arm for arm in arms):
        raise UserError('arms must be a mapping from names to settings, such as {"none": {}, "aux": {"weight": 0.3}}')
    if len(arms) < 2:
        given = f"only {next(iter(arms))!r}" if arms else "no arm"
        raise UserError(f"arms has {given}; a comparison needs a baseline and at least one other arm")
    for arm in arms:
        _check_encodable(arm, "the name of the arm")


def check_metric(metric: Any, higher_is_better: Any) -> None:
    if not isinstance(metric, str) or not metric:
        raise UserError(f'metric is {metric!r}; it must be the name of one metric that train gives, such as "loss"')
    _check_encodable(metric, "metric")
    if not isinstance(higher_is_better, bool):
        raise UserError(f"higher_is_better is {higher_is_better!r}; it must be True or False")


def parse_study_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds, given as a sequence or as their number."""
    parsed = parse_seeds(
        list(seeds) if isinstance(seeds, Sequence) and not isinstance(seeds, str) else seeds, "the study"
    )
    if len(parsed) < _MIN_SEEDS:
        raise UserError(f"seeds has {len(parsed)} seed; an interval needs at least {_MIN_SEEDS}, and a claim 5")
    return parsed


def parse_baseline(baseline: Any, arms: dict[str, Any]) -> str:
    """The baseline; by default the first arm."""
    if baseline is None:
        return next(iter(arms))
    if not isinstance(baseline, str):
        raise UserError(f"baseline is {baseline!r}; it must be the name of one of the arms")
    if baseline not in arms:
        raise UserError(f"the baseline {baseline!r} is none of the arms{suggest_names(baseline, arms)}")
    return baseline


def check_processes(processes: Any) -> None:
    if type(processes) is not int or processes < 1:
        raise UserError(f"processes is {processes!r}; it must be a whole number from 1")


def parse_study_folder(folder: Any) -> Path:
    """The folder of the records as a path. Raises UserError where it cannot be one."""
    path = parse_path(folder, "folder")
    try:
        check_is_folder(path)
    except (OSError, ValueError) as error:
        raise UserError(f"the folder {str(path)!r} cannot be used: {error}") from None
    return path


def parse_path(value: Any, name: str) -> Path:
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name} is {value!r}; it must be a path, as text or pathlib.Path")
    return Path(value)


def check_positive(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < math.inf:
        raise UserError(f"{name} is {value!r}; it must be a number above 0")


def check_probability(name: str, value: Any) -> None:
    if not _is_number(value) or not 0 < value < 1:
        raise UserError(f"{name} is {value!r}; it must be a number between 0 and 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_encodable(text: str, what: str) -> None:
    """Raises UserError for text that no file can hold, such as half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} is {text!r}, which has a character that UTF-8 cannot encode; rename it") from None
