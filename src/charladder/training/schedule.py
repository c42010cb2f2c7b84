"""Progress of a run in [0, 1], and the schedule of the learning rate as a function of it."""

import math
from dataclasses import dataclass

from charladder.training.config import TrainingConfig


@dataclass
class RunCounters:
    """The optimizer steps, the characters read as inputs, and the seconds of a run so far."""

    step: int = 0
    characters: int = 0
    seconds: float = 0.0


def compute_progress(settings: TrainingConfig, counters: RunCounters) -> float:
    """The spent share of the budget, at most 1."""
    if settings.steps:
        share = counters.step / settings.steps
    elif settings.characters:
        share = counters.characters / settings.characters
    else:
        share = counters.seconds / (60 * settings.minutes)
    return min(1.0, share)


def step_share(settings: TrainingConfig, counters: RunCounters, characters: int, seconds: float) -> float:
    """The share of the budget that a step of `characters` takes. With a budget in minutes it is that of the mean step
    so far, and for the first step that of `seconds`."""
    if settings.steps:
        return 1 / settings.steps
    if settings.characters:
        return characters / settings.characters
    return (counters.seconds / counters.step if counters.step else seconds) / (60 * settings.minutes)


def learning_rate_factor(settings: TrainingConfig, progress: float, share: float) -> float:
    """The factor on the learning rate of a step that begins at `progress` and takes `share` of the budget.

    The warm-up factor of a step is (step + 1) / warm-up steps, so the first step has a rate above 0.
    """
    warmup = min(1.0, (progress + share) / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "fixed":
        return warmup
    if settings.decay == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * progress))
    return warmup * (1 - progress)
