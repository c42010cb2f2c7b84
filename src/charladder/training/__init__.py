"""Training: one run from its first step to its last, resumable at any."""

from charladder.training.checkpoint import load_newest
from charladder.training.config import TrainingConfig
from charladder.training.health import TrainingDiverged
from charladder.training.loop import (
    Event,
    Saved,
    Skipped,
    Slow,
    Stepped,
    Unrecorded,
    Validated,
    ended_early,
    train,
)
from charladder.training.trainer import Trainer

__all__ = [
    "Event",
    "Saved",
    "Skipped",
    "Slow",
    "Stepped",
    "Trainer",
    "TrainingConfig",
    "TrainingDiverged",
    "Unrecorded",
    "Validated",
    "ended_early",
    "load_newest",
    "train",
]
