"""Training of one run, which can be resumed after any step."""

from charladder.training.checkpoint import load_newest
from charladder.training.config import TrainingConfig
from charladder.training.health import TrainingDiverged
from charladder.training.loop import (
    CaptureFailed,
    CheckpointSaved,
    Event,
    SlowStep,
    StepCompleted,
    StepSkipped,
    ValidationCompleted,
    ended_early,
    train,
)
from charladder.training.trainer import Trainer

__all__ = [
    "CaptureFailed",
    "CheckpointSaved",
    "Event",
    "SlowStep",
    "StepCompleted",
    "StepSkipped",
    "Trainer",
    "TrainingConfig",
    "TrainingDiverged",
    "ValidationCompleted",
    "ended_early",
    "load_newest",
    "train",
]
