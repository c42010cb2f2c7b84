"""The three losses of Al-Rfou et al. 2018 as one objective of a Transformer."""

from charladder.objective.chained_targets import ChainedModule
from charladder.objective.config import (
    IntermediateSchedule,
    ObjectiveConfig,
    TargetSchedule,
    depends_on_step,
    has_head,
    has_term,
    is_chained,
    term_weights,
)
from charladder.objective.language_model import LanguageModelObjective, head_key

__all__ = [
    "ChainedModule",
    "IntermediateSchedule",
    "LanguageModelObjective",
    "ObjectiveConfig",
    "TargetSchedule",
    "depends_on_step",
    "has_head",
    "has_term",
    "head_key",
    "is_chained",
    "term_weights",
]
