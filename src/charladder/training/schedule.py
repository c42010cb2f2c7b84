"""Progress of a run in [0, 1], and the schedule of the learning rate as a function of it."""

import math
from dataclasses import dataclass

from charladder.training.config import TrainingConfig


@dataclass
class Clock:
    """Optimizer steps, characters read as inputs, and seconds of a run so far."""

    step: int = 0
    characters: int = 0
    seconds: float = 0.0


def progress(settings: TrainingConfig, clock: Clock) -> float:
    """The spent share of the budget, at most 1."""
    if settings.steps:
        share = clock.step / settings.steps
    elif settings.characters:
        share = clock.characters / settings.characters
    else:
        share = clock.seconds / (60 * settings.minutes)
    return min(1.0, share)


def step_share(settings: TrainingConfig, clock: Clock, characters: int, seconds: float) -> float:
    """The share of the budget that a step of `characters` takes. With a budget in minutes it is that of the mean step
    so far, and for the first step that of `seconds`."""
    if settings.steps:
        return 1 / settings.steps
    if settings.characters:
        return characters / settings.characters
    return (clock.seconds / clock.step if clock.step else seconds) / (60 * settings.minutes)


def learning_rate_factor(settings: TrainingConfig, at: float, share: float) -> float:
    """The factor on the learning rate of a step that begins at progress `at` and takes `share` of the budget.

    The warm-up factor of a step is (step + 1) / warm-up steps, so the first step has a rate above 0.
    """
    warmup = min(1.0, (at + share) / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "fixed":
        return warmup
    if settings.decay == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * at))
    return warmup * (1 - at)
