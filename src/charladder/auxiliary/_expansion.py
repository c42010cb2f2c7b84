"""From terms as they are written down to terms of one model: patterns among taps, and the layers of a ladder."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._taps import all_names, is_pattern, match_modules, matching_names, named_modules
from charladder.auxiliary._term import Term
from charladder.auxiliary._wrappers import unwrap
from charladder.auxiliary.weights import Weight


def intermediate_terms(
    model: nn.Module, pattern: str, loss: Callable[..., Any], *, weight: Weight = "al_rfou", **fields: Any
) -> dict[str, Term]:
    """A term for each intermediate layer of a model: `layer1`, `layer2` ... below the last, which has the main loss.

    Some presets (layerskip, calm, deed, inter_ctc) have a weight for the last layer too: give its Term the same name,
    `main=Term(loss, weight="calm")`.
    pattern: the names of all n layers (`encoder.layers.*`), in the model's order. weight: as of a Term; the place of
    each, layer l of n, is filled in. fields: anything else that a Term takes. A head given as a module is shared by
    all of them; a head given as a function is made for each.
    Raises AuxiliaryError where no module fits, or one alone, and where several names are one module.
    """
    base = unwrap(model, [pattern])
    taps = match_modules(base, pattern, "layers()")
    names = matching_names([name for name in all_names(base) if name], pattern)  # the model itself is no layer
    if len(names) > len(taps):
        modules = "one module" if len(taps) == 1 else f"{len(taps)} modules"
        raise AuxiliaryError(
            f"layers(): {len(names)} names fit {pattern!r}, and they are {modules} that the model calls several times; "
            "make a Term(tap=..., call=..., layer=..., layers=...) for each call"
        )
    if len(taps) == 1:
        raise AuxiliaryError(
            f"layers(): {taps[0]} alone fits {pattern!r}, and the last of the layers has the main loss; give a pattern "
            "that fits several layers"
        )
    return {
        f"layer{layer}": Term(loss, tap=tap, weight=weight, layer=layer, layers=len(taps), **fields)
        for layer, tap in enumerate(taps[:-1], 1)
    }


def expand(model: nn.Module, terms: Mapping[str, Term]) -> dict[str, Term]:
    """Terms by name, one for each module that a pattern fits. Raises AuxiliaryError for names that are not there."""
    names, found = named_modules(model), {}
    for name, term in terms.items():
        if isinstance(term.head, str) and term.head not in names:
            match_modules(model, term.head, f"term {name!r}")
        for each, single in expand_term(model, name, term):
            if each in found:
                raise AuxiliaryError(f"there are two terms called {each!r}; give each a name of its own")
            found[each] = single
    return found


def expand_term(model: nn.Module, name: str, term: Term) -> list[tuple[str, Term]]:
    """A term as it is, or one for each module that its pattern fits: layers 1 to m, with the main loss as m + 1."""
    if term.tap is None:
        return [(name, term)]
    taps = match_modules(model, term.tap, f"term {name!r}")
    if not is_pattern(term.tap):
        return [(name, term)]
    wild = [place for place, part in enumerate(term.tap.split(".")) if is_pattern(part)]
    found = []
    for layer, tap in enumerate(taps, 1):
        ending = ".".join(tap.split(".")[place] for place in wild)
        place = {} if term.layer is not None else {"layer": layer, "layers": len(taps) + 1}
        found.append((f"{name}.{ending}", dataclasses.replace(term, tap=tap, target_name=name, **place)))
    return found


def has_patterns(terms: Mapping[str, Term]) -> bool:
    """Whether some terms are patterns still."""
    return any(term.tap is not None and is_pattern(term.tap) for term in terms.values())
