"""The predictions that the losses of Al-Rfou et al. 2018 score on a short text, and the weights of these losses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._term import MAIN
from charladder.auxiliary.weights import TermPlace, Weight, check_progress, make_weight_function


@dataclass(frozen=True)
class Row:
    """One prediction: term `loss` at `layer` reads the text `given` and predicts `target`, `offset` characters ahead,
    with a `weight`; `active` means that the weight is not 0."""

    loss: str
    layer: int
    given: str
    offset: int
    target: str
    weight: float
    active: bool


def term_name(layer: int, offset: int, layers: int) -> str:
    """`main` for the next character from the last layer; `layer3.target2` and the like for all others."""
    return MAIN if (layer, offset) == (layers, 1) else f"layer{layer}.target{offset}"


def explain(
    text: str,
    layers: int,
    targets: int,
    progress: float,
    weight: Weight | Mapping[tuple[int, int], float] = "al_rfou",
    step: int = 0,
) -> list[Row]:
    """Every prediction of a model with `layers` layers and `targets` targets; by layer, then by offset.

    Targets past the end of the text are left out. weight: as in Term, or numbers by (layer, offset).

    >>> [f"{row.given} -> {row.target}" for row in explain("ABCD", layers=1, targets=2, progress=0.0)]
    ['A -> B', 'AB -> C', 'ABC -> D', 'A -> C', 'AB -> D']
    """
    check_progress(progress)
    if layers < 1 or targets < 1:
        raise AuxiliaryError(f"there are {layers} layers and {targets} targets; both must be at least 1")
    rows: list[Row] = []
    for layer in range(1, layers + 1):
        for offset in range(1, targets + 1):
            name = term_name(layer, offset, layers)
            if isinstance(weight, Mapping):
                value = cast("Mapping[tuple[int, int], float]", weight)[layer, offset]
            else:
                place = TermPlace(layer, layers, offset, targets, name == MAIN)
                value = make_weight_function(name, weight, place)(progress, step)
            rows += [
                Row(name, layer, text[: end + 1], offset, text[end + offset], value, value != 0)
                for end in range(len(text) - offset)
            ]
    return rows
