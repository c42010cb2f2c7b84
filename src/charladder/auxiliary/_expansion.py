"""One term for each module that matches a pattern: terms whose tap is a pattern, and terms of intermediate layers."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import all_names, is_pattern, match_modules, matching_names, named_modules
from charladder.auxiliary._target_sources import TappedTarget
from charladder.auxiliary._term import Term, two_terms
from charladder.auxiliary._wrappers import unwrap
from charladder.auxiliary.weights import Weight

_CALLER = "intermediate_terms()"  # in messages


def intermediate_terms(
    model: nn.Module, pattern: str, loss: Callable[..., Any], *, weight: Weight = "al_rfou", **fields: Any
) -> dict[str, Term]:
    """A term for each intermediate layer of a model: `layer1`, `layer2` ... below the last, which has the main loss.

    Some presets (layerskip, calm, deed, inter_ctc) have a weight for the last layer too: give its Term the same name,
    `main=Term(loss, weight="calm")`.
    pattern: the names of all n layers (`encoder.layers.*`), in the model's order. weight: as in Term; layer l of n is
    filled in. fields: any other field of Term. All terms share a head given as a module; a head given as a function is
    made for each.
    Raises AuxiliaryError if no module matches, or only one, or if several names are one module.

    >>> from charladder import auxiliary as aux
    >>> model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    >>> terms = aux.intermediate_terms(model, "*", nn.functional.cross_entropy, weight="calm")
    >>> [(name, term.tap) for name, term in terms.items()]
    [('layer1', '0'), ('layer2', '1'), ('layer3', '2')]
    """
    base = unwrap(model, [pattern])
    taps = match_modules(base, pattern, _CALLER)
    names = matching_names([name for name in all_names(base) if name], pattern)  # the model itself is no layer
    if len(names) > len(taps):
        modules = "one module" if len(taps) == 1 else f"{len(taps)} modules"
        raise AuxiliaryError(
            f"{_CALLER}: {len(names)} names match {pattern!r}, and they are {modules} that the model calls several "
            "times; make a Term(tap=..., call=..., layer=..., layers=...) for each call"
        )
    if len(taps) == 1:
        raise AuxiliaryError(
            f"{_CALLER}: {taps[0]} alone matches {pattern!r}, and the last of the layers has the main loss; give a "
            "pattern that matches several layers"
        )
    return {
        f"layer{layer}": Term(loss, tap=tap, weight=weight, layer=layer, layers=len(taps), **fields)
        for layer, tap in enumerate(taps[:-1], 1)
    }


def expand(model: nn.Module, terms: Mapping[str, Term]) -> dict[str, Term]:
    """Terms by name, one for each module that a pattern matches. Raises AuxiliaryError for names that do not exist."""
    names = named_modules(model)
    expanded: dict[str, Term] = {}
    for name, term in terms.items():
        if isinstance(term.head, str) and term.head not in names:
            match_modules(model, term.head, f"term {name!r}")
        if isinstance(term.target, TappedTarget) and term.target.tap not in names:
            match_modules(model, term.target.tap, f"term {name!r}: its target")
        for each, single in _expand_term(model, name, term):
            if each in expanded:
                raise two_terms(each)
            expanded[each] = single
    return expanded


def _expand_term(model: nn.Module, name: str, term: Term) -> list[tuple[str, Term]]:
    """The term, or one for each module that its pattern matches: layers 1 to m, with the main loss as m + 1."""
    if term.tap is None:
        return [(name, term)]
    taps = match_modules(model, term.tap, f"term {name!r}")
    if not is_pattern(term.tap):
        return [(name, term)]
    wildcards = [index for index, part in enumerate(term.tap.split(".")) if is_pattern(part)]
    expanded: list[tuple[str, Term]] = []
    for layer, tap in enumerate(taps, 1):
        ending = ".".join(tap.split(".")[index] for index in wildcards)
        place: dict[str, Any] = {} if term.layer is not None else {"layer": layer, "layers": len(taps) + 1}
        place["target_name"] = term.target_name or name
        expanded.append((f"{name}.{ending}", dataclasses.replace(term, tap=tap, **place)))
    return expanded


def has_patterns(terms: Mapping[str, Term]) -> bool:
    """Whether the taps of some terms are patterns."""
    return any(term.tap is not None and is_pattern(term.tap) for term in terms.values())
