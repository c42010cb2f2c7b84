"""The three losses of Al-Rfou et al. 2018 as one objective of a Transformer."""

from charladder.objective.config import (
    IntermediateSchedule,
    ObjectiveConfig,
    TargetSchedule,
    depends_on_step,
    has_head,
    term_weights,
)
from charladder.objective.language_model import LanguageModelObjective, head_key

__all__ = [
    "IntermediateSchedule",
    "LanguageModelObjective",
    "ObjectiveConfig",
    "TargetSchedule",
    "depends_on_step",
    "has_head",
    "head_key",
    "term_weights",
]
