"""Training: one run from its first step to its last, resumable at any."""

from charladder.training.checkpoint import load_newest
from charladder.training.loop import Event, Saved, Stepped, Validated, train
from charladder.training.settings import TrainingSettings
from charladder.training.trainer import NotFinite, Trainer

__all__ = [
    "Event",
    "NotFinite",
    "Saved",
    "Stepped",
    "Trainer",
    "TrainingSettings",
    "Validated",
    "load_newest",
    "train",
]
