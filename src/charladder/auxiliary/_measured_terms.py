"""Which terms a call of an objective measures, and with which weights."""

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, nearest
from charladder.auxiliary._select import is_mapping
from charladder.auxiliary._term import Terms


def chosen_terms(terms: Terms, only: Iterable[str] | None) -> Collection[str]:
    """The terms that a call may measure: those of `only`, or all of them."""
    if only is None:
        return terms.by_name
    chosen = {only} if isinstance(only, str) else set(only)
    unknown = [name for name in chosen if name not in terms]
    if unknown:
        raise AuxiliaryError(f"only has {unknown[0]!r}, and there is no such term{nearest(unknown[0], terms)}")
    return chosen


def measured_terms(terms: Terms, weights: Mapping[str, float], chosen: Collection[str]) -> list[str]:
    """The terms that a call measures, in order: of the chosen ones, those with a weight, or with measure=True."""
    return [name for name, term in terms.by_name.items() if name in chosen and (weights[name] != 0 or term.measure)]


def given_weights(terms: Terms, weights: Mapping[str, float], chosen: Collection[str]) -> dict[str, float]:
    """The weights that a call gives; 0 for the terms that they leave out, and for those that are not chosen."""
    if not is_mapping(weights):
        raise AuxiliaryError(f"weights is of type {type(weights).__name__}; give a dict of numbers by term")
    unknown = [name for name in weights if name not in terms]
    if unknown:
        raise AuxiliaryError(f"weights has {unknown[0]!r}, and there is no such term{nearest(unknown[0], terms)}")
    for name, weight in weights.items():
        if not isinstance(weight, int | float | Tensor):
            raise AuxiliaryError(f"weights[{name!r}] is {weight!r}; give a number")
    return dict.fromkeys(terms, 0.0) | {name: weight for name, weight in weights.items() if name in chosen}


def check_without_taps(terms: Terms, measured: Iterable[str]) -> None:
    """Raises AuxiliaryError if a term reads a tap, where the forward pass was not captured."""
    for name in measured:
        if terms[name].tapped_names:
            raise AuxiliaryError(
                f"term {name!r} reads the module {terms[name].tapped_names[0]}, and this forward pass was not "
                "captured; run the model inside `with objective.capture():`, or let the objective run it"
            )
