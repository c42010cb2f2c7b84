"""From what a Term calls its weight (a number, a function, the name of a preset) to its weight at one moment."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named, nearest
from charladder.auxiliary.presets import INTERMEDIATE, TARGETS

Weight = float | str | Tensor | Callable[..., float]
WeightFunction = Callable[[float | None, int | None], float]
# What a weight function may ask for, by the names of its parameters.
ARGUMENTS = ("progress", "step", "layer", "layers", "offset", "offsets", "main")


@dataclass(frozen=True)
class TermPlace:
    """Where a term stands: layer l of `layers` (None where it has none), target `offset` of `offsets`, main or not."""

    layer: int | None = None
    layers: int | None = None
    offset: int = 1
    offsets: int = 1
    main: bool = False


def make_weight_function(name: str, weight: Weight, place: TermPlace) -> WeightFunction:
    """The weight of term `name` as a function of (progress, step).

    A number is constant; a tensor of one number is read at each call. A function of one parameter, whatever its name,
    is one of progress; a function whose parameters are among ARGUMENTS is given those. A string is a preset: of layers,
    of targets, or where both have the name, their product. Raises AuxiliaryError that names the term.
    """
    if isinstance(weight, str):
        found = [presets[weight] for presets in (INTERMEDIATE, TARGETS) if weight in presets]
        if not found:
            raise AuxiliaryError(
                f"term {name!r}: there is no preset {weight!r}{nearest(weight, sorted(INTERMEDIATE | TARGETS))}"
            )
        if len(found) > 1 and place.layer is None and place.offsets > 1:
            found = found[1:]  # a target preset alone, on a term that stands on no layer
        parts = [make_weight_function(name, preset, place) for preset in found]
        return lambda progress, step: math.prod(part(progress, step) for part in parts)
    if isinstance(weight, Tensor):  # which may be changed in place
        _check_value(name, weight)
        return lambda progress, step: _check_value(name, weight)
    if not callable(weight):
        value = _check_value(name, weight)
        return lambda progress, step: value
    alone, wanted = required_arguments(weight)
    strange = [argument for argument in wanted if argument not in ARGUMENTS]
    if strange:
        raise AuxiliaryError(
            f"term {name!r}: its weight function takes {strange[0]!r}, which it cannot be given; it may take "
            f"{', '.join(ARGUMENTS)}"
        )
    known = {a: getattr(place, a) for a in wanted if getattr(place, a, None) is not None}
    for argument in ("layer", "layers"):
        if argument in wanted and argument not in known:
            raise AuxiliaryError(
                f"term {name!r}: its weight depends on the {argument}, and the term has none; give Term(layer=, "
                f"layers=), or make the terms of all layers with layers(...)"
            )

    def at(progress: float | None, step: int | None) -> float:
        given = dict(known)
        for argument, value in (("progress", progress), ("step", step)):
            if argument in wanted and value is not None:
                given[argument] = value
            elif wanted.get(argument):
                raise AuxiliaryError(f"term {name!r}: its weight depends on the {argument}; give it in the call")
        arguments, keywords = ((given["progress"],), {}) if alone else ((), given)
        return _check_value(name, call_named(f"term {name!r}: its weight function", weight, *arguments, **keywords))

    return at


def required_arguments(weight: Callable[..., float]) -> tuple[bool, dict[str, bool]]:
    """The parameters of a weight function, those of ARGUMENTS and those it needs, and for each whether it needs it; and
    whether the function takes one thing of a name of its own, which is then the progress."""
    parameters = takes_arguments(weight)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) and len(parameters) == 1:
        raise AuxiliaryError(f"{weight!r} does not say what it takes; name the parameters of a weight function")
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if not needed and len(parameters) == 1 and parameters[0].name not in ARGUMENTS:
        return True, {"progress": True}
    if len(needed) == 1 and (needed[0].name not in ARGUMENTS or needed[0].kind is needed[0].POSITIONAL_ONLY):
        return True, {"progress": True}
    return False, {p.name: p in needed for p in parameters if p in needed or p.name in ARGUMENTS}


def takes_arguments(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a function. Raises AuxiliaryError for one that does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise AuxiliaryError(f"{function!r} does not say what it takes; wrap it in a lambda") from None


def _check_value(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.requires_grad:
        raise AuxiliaryError(
            f"term {name!r}: its weight requires a gradient and would get none; give a number, or learn weights with "
            "Objective(rule=rules.Uncertainty(names))"
        )
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise AuxiliaryError(f"term {name!r}: its weight is {value!r}; it must be a finite number")
    return number


def check_progress(progress: float | None) -> None:
    """Raises AuxiliaryError where progress is not a number in [0, 1]; None means that no schedule is used."""
    if progress is not None and (isinstance(progress, str) or not 0 <= progress <= 1):
        raise AuxiliaryError(f"progress is {progress}; it must lie in [0, 1], as steps done over steps planned do")
