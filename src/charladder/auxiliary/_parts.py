"""The named parts of a loss, each with a count and a weight of its own; the term's value is their weighted sum."""

import math
from collections.abc import Mapping
from typing import Any

from charladder.auxiliary._errors import AuxiliaryError, nearest, term_and_part
from charladder.auxiliary._select import is_mapping


def check_part_weights(parts: Any) -> None:
    """Raises AuxiliaryError if Term(parts=...) is not a mapping of names to finite weights, one of them not 0."""
    if not is_mapping(parts) or not all(isinstance(part, str) for part in parts):
        raise AuxiliaryError(f"a Term's parts are {parts!r}; give the weight of each part by its name")
    for part, weight in parts.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight):
            raise AuxiliaryError(f"a Term's part {part!r} has the weight {weight!r}; it must be a finite number")
    if not any(parts.values()):
        raise AuxiliaryError("a Term's parts have no weight other than 0; leave the term out, or give one a weight")


def part_weights(name: str, declared: Mapping[str, float] | None, result: Any) -> Mapping[str, float]:
    """The weights of the parts that the loss of term `name` returned: those of Term(parts=...), or else 1.

    Raises AuxiliaryError if the loss returned other parts than the term has.
    """
    if not is_mapping(result):
        raise AuxiliaryError(
            f"term {name!r} has parts, and its loss returned none; make it return a mapping with the keys "
            f"{', '.join(declared or ())}"
        )
    if declared is None:
        if not result or not all(isinstance(part, str) for part in result):
            raise AuxiliaryError(
                f"term {name!r}: its loss returned a mapping with the keys {list(result)}; give each part a name"
            )
        return dict.fromkeys(result, 1.0)
    unknown = [part for part in result if part not in declared]
    if unknown:
        raise AuxiliaryError(
            f"term {name!r}: its loss returned the part {unknown[0]!r}, which Term(parts=...) does not have"
            f"{nearest(str(unknown[0]), declared)}"
        )
    missing = [part for part in declared if part not in result]
    if missing:
        raise AuxiliaryError(
            f"{term_and_part(name, missing[0])}, was not returned by its loss; a part with nothing to predict is the "
            "pair (a sum of 0, a count of 0)"
        )
    return declared
