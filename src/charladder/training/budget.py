"""Progress: the only clock that schedules see, from 0 to 1, and the learning rate's shape over it."""

import math
from dataclasses import dataclass

from charladder.training.settings import TrainingSettings


@dataclass
class Clock:
    """What a run has spent: optimisation steps, characters read as inputs, seconds."""

    step: int = 0
    characters: int = 0
    seconds: float = 0.0


def progress(settings: TrainingSettings, clock: Clock) -> float:
    """The share of the budget that is spent, at most 1."""
    if settings.steps:
        share = clock.step / settings.steps
    elif settings.characters:
        share = clock.characters / settings.characters
    else:
        share = clock.seconds / (60 * settings.minutes)
    return min(1.0, share)


def rate_factor(settings: TrainingSettings, at: float) -> float:
    """What the learning rate is multiplied by at progress `at`."""
    rise = min(1.0, at / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "fixed":
        return rise
    if settings.decay == "cosine":
        return rise * 0.5 * (1 + math.cos(math.pi * at))
    return rise * (1 - at)
