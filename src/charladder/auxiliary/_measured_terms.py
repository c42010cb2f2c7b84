"""Which terms a call of an objective measures, and with which weights."""

from collections.abc import Iterable, Mapping

from charladder.auxiliary._errors import AuxiliaryError, nearest
from charladder.auxiliary._term import Terms


def measured_terms(terms: Terms, weights: dict[str, float], only: Iterable[str] | None) -> list[str]:
    """The terms of a call, in order. Sets the weights of all that are left out by `only` to 0."""
    if only is None:
        return [name for name, term in terms.by_name.items() if weights[name] != 0 or term.measure]
    chosen = [only] if isinstance(only, str) else list(only)
    unknown = [name for name in chosen if name not in terms]
    if unknown:
        raise AuxiliaryError(f"only has {unknown[0]!r}, and there is no such term{nearest(unknown[0], terms)}")
    weights.update(dict.fromkeys(terms.keys() - set(chosen), 0.0))
    return [name for name in terms if name in chosen and (weights[name] != 0 or terms[name].measure)]


def given_weights(terms: Terms, weights: Mapping[str, float]) -> dict[str, float]:
    """The weights that a call gives; 0 for the terms that they leave out."""
    unknown = [name for name in weights if name not in terms]
    if unknown:
        raise AuxiliaryError(f"weights has {unknown[0]!r}, and there is no such term{nearest(unknown[0], terms)}")
    return dict.fromkeys(terms, 0.0) | dict(weights)


def check_without_taps(terms: Terms, measured: Iterable[str]) -> None:
    """Raises AuxiliaryError if a term reads a tap, where no forward pass was captured."""
    for name in measured:
        if terms[name].tapped_names:
            raise AuxiliaryError(
                f"term {name!r} reads the module {terms[name].tapped_names[0]}, and no forward pass was captured; run "
                "the model inside `with objective.capture():`, or let the objective run it"
            )
