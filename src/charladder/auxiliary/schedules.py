"""Weights as pure functions of progress, of the layer and of the target's offset. Progress runs from 0 to 1."""


def until(end: float, progress: float) -> float:
    """1 while progress < end, then 0."""
    return 1.0 if progress < end else 0.0


def al_rfou(layer: int, layers: int, progress: float, span: float = 0.5) -> float:
    """The weight of rung `layer` of `layers` (1-based) in Al-Rfou et al. 2018, "Intermediate Layer Losses".

    1 while progress < span * layer / layers, then 0: the lowest rungs leave first. With span 0.5 all are gone at
    half of training; the text of the paper also gives an interval that means span 1. The last layer always has 1.
    """
    return 1.0 if layer == layers else until(span * layer / layers, progress)


def linear_fade(end: float, progress: float) -> float:
    """From 1 at the start straight down to 0 at `end`, and 0 from there."""
    return max(0.0, 1.0 - progress / end) if end > 0 else 0.0


def al_rfou_target(offset: int, extra: float = 0.5) -> float:
    """The weight of the target `offset` ahead (same paper, "Multiple Targets"): 1 for the next, then `extra`."""
    return 1.0 if offset == 1 else extra
