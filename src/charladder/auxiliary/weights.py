"""The `weight` of a Term (a number, a function, the name of a preset) as a function of progress and step."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named, nearest
from charladder.auxiliary._weight_presets import INTERMEDIATE, TARGETS

Weight = float | str | Tensor | Callable[..., float]
WeightFunction = Callable[[float | None, int | None], float]
# The arguments that a weight function may take, by the names of its parameters.
ARGUMENTS = ("progress", "step", "layer", "layers", "offset", "offsets", "main")


@dataclass(frozen=True)
class TermPlace:
    """The place of a term among the layers and targets of a model: its layer of `layers` (None if it has none), its
    target `offset` of `offsets`, and whether it is the main term."""

    layer: int | None = None
    layers: int | None = None
    offset: int = 1
    offsets: int = 1
    main: bool = False


def make_weight_function(name: str, weight: Weight, place: TermPlace) -> WeightFunction:
    """The weight of term `name` as a function of (progress, step).

    A number is constant; a tensor of one number is read at each call. A function of one parameter with any name gets
    the progress; a function whose parameters are among ARGUMENTS gets those. A string is a preset: of layers, of
    targets, or if both have the name, their product. Raises AuxiliaryError that names the term.
    """
    if isinstance(weight, str):
        return _preset_function(name, weight, place)
    if isinstance(weight, Tensor):  # may be changed in place
        _check_value(name, weight)
        return lambda progress, step: _check_value(name, weight)
    if not callable(weight):
        value = _check_value(name, weight)
        return lambda progress, step: value
    is_positional, required = _weight_arguments(weight)
    unknown = [argument for argument in required if argument not in ARGUMENTS]
    if unknown:
        raise AuxiliaryError(
            f"term {name!r}: its weight function takes {unknown[0]!r}, which is not available; it may take "
            f"{', '.join(ARGUMENTS)}"
        )
    fixed = {a: getattr(place, a) for a in required if getattr(place, a, None) is not None}
    for argument in ("layer", "layers"):
        if argument in required and argument not in fixed:
            raise AuxiliaryError(
                f"term {name!r}: its weight depends on the {argument}, and the term has none; give Term(layer=, "
                "layers=), or make the terms of all layers with intermediate_terms(...)"
            )

    def weight_at(progress: float | None, step: int | None) -> float:
        arguments = dict(fixed)
        for argument, value in (("progress", progress), ("step", step)):
            if argument in required and value is not None:
                arguments[argument] = value
            elif required.get(argument):
                raise AuxiliaryError(f"term {name!r}: its weight depends on the {argument}; give it in the call")
        positional, keywords = ((arguments["progress"],), {}) if is_positional else ((), arguments)
        return _check_value(name, call_named(f"term {name!r}: its weight function", weight, *positional, **keywords))

    return weight_at


def check_progress(progress: float | None) -> None:
    """Raises AuxiliaryError if progress is not a number in [0, 1]; None means that no schedule is used."""
    if progress is not None and (isinstance(progress, str) or not 0 <= progress <= 1):
        raise AuxiliaryError(f"progress is {progress}; it must lie in [0, 1], as steps done over steps planned do")


def _preset_function(name: str, preset: str, place: TermPlace) -> WeightFunction:
    presets = [table[preset] for table in (INTERMEDIATE, TARGETS) if preset in table]
    if not presets:
        choices = sorted(INTERMEDIATE | TARGETS)
        raise AuxiliaryError(f"term {name!r}: there is no preset {preset!r}{nearest(preset, choices)}")
    if len(presets) > 1 and place.layer is None and place.offsets > 1:
        presets = presets[1:]  # of targets alone, for a term that has no layer
    functions = [make_weight_function(name, function, place) for function in presets]
    return lambda progress, step: math.prod(function(progress, step) for function in functions)


def _weight_arguments(weight: Callable[..., float]) -> tuple[bool, dict[str, bool]]:
    """The parameters of a weight function, those among ARGUMENTS and those without a default, and for each whether it
    is required; and whether the function takes one argument of any name, which is then the progress."""
    try:
        parameters = list(inspect.signature(weight).parameters.values())
    except (TypeError, ValueError):
        raise AuxiliaryError(f"the parameters of {weight!r} cannot be read; wrap it in a lambda") from None
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    if len(parameters) == 1 and parameters[0].kind in variadic:
        raise AuxiliaryError(f"the parameters of {weight!r} have no names; name the parameters of a weight function")
    required = [p for p in parameters if p.default is p.empty and p.kind not in variadic]
    only = required or parameters
    if len(only) == 1 and (only[0].name not in ARGUMENTS or (required and only[0].kind is only[0].POSITIONAL_ONLY)):
        return True, {"progress": True}
    return False, {p.name: p in required for p in parameters if p in required or p.name in ARGUMENTS}


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
    if not -math.inf < number < math.inf:  # and not math.isfinite, which torch.compile cannot trace
        raise AuxiliaryError(f"term {name!r}: its weight is {value!r}; it must be a finite number")
    return number
