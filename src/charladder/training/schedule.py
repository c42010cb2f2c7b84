"""Progress: the only clock that schedules see, from 0 to 1, and the learning rate's shape over it."""

import math
from dataclasses import dataclass

from charladder.training.config import TrainingConfig


@dataclass
class Clock:
    """What a run has spent: optimisation steps, characters read as inputs, seconds."""

    step: int = 0
    characters: int = 0
    seconds: float = 0.0


def progress(settings: TrainingConfig, clock: Clock) -> float:
    """The share of the budget that is spent, at most 1."""
    if settings.steps:
        share = clock.step / settings.steps
    elif settings.characters:
        share = clock.characters / settings.characters
    else:
        share = clock.seconds / (60 * settings.minutes)
    return min(1.0, share)


def step_share(settings: TrainingConfig, clock: Clock, characters: int, seconds: float) -> float:
    """The share of the budget that one step takes: a step that reads `characters`. Under a budget in minutes it is the
    mean of the steps so far, and `seconds` for the first one."""
    if settings.steps:
        return 1 / settings.steps
    if settings.characters:
        return characters / settings.characters
    return (clock.seconds / clock.step if clock.step else seconds) / (60 * settings.minutes)


def learning_rate_factor(settings: TrainingConfig, at: float, share: float) -> float:
    """The factor on the learning rate of a step that begins at progress `at` and takes `share` of the budget.

    Warm-up counts the step itself, as (step + 1) / warm-up steps does, so the first step has a rate above 0.
    """
    rise = min(1.0, (at + share) / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "fixed":
        return rise
    if settings.decay == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * at))
    return rise * (1 - at)
