"""The three losses of Al-Rfou et al. 2018 as one objective of a Transformer."""

from charladder.objective.ladder import (
    LadderObjective,
    ObjectiveSettings,
    RungSchedule,
    TargetSchedule,
    has_head,
    key,
    moves_with_steps,
    term_weights,
)

__all__ = [
    "LadderObjective",
    "ObjectiveSettings",
    "RungSchedule",
    "TargetSchedule",
    "has_head",
    "key",
    "moves_with_steps",
    "term_weights",
]
