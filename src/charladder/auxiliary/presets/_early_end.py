"""Weights of presets that end early."""

from charladder.auxiliary import schedules
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary.weights import Weight


def until(weight: Weight, end: float | None) -> Weight:
    """`weight` while progress < end, then 0; at all times if `end` is None.

    Raises AuxiliaryError for an end of a weight that is no number, and for an end outside (0, 1].
    """
    if end is None:
        return weight
    if not isinstance(weight, int | float):
        raise AuxiliaryError(
            f"a weight that ends at {end} must be a number, and this one is of type {type(weight).__name__}; leave the "
            "end out, and let the weight be a function of progress that becomes 0"
        )
    return schedules.until(end, float(weight))
