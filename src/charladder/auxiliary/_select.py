"""Picking a part: of what a model or a module returns, or of what is given as targets."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named, nearest


def pick(name: str, whole: Any, selector: Any, what: str, role: str = "select") -> Any:
    """The part of `whole` that a selector names: a key, index or attribute, several in turn, or a function.

    `what` says in a message what `whole` is, and `role` which field of the Term the selector is. Raises AuxiliaryError
    where there is no such part, and where a function raises.
    """
    if callable(selector):
        return call_named(f"term {name!r}: its {role} function", selector, whole)
    for step in selector if isinstance(selector, tuple) else (selector,):
        whole = one_step(name, whole, step, what, role)
    return whole


def one_step(name: str, whole: Any, step: Any, what: str, role: str = "select") -> Any:
    # An index would take one sample of a batch, and a name one of a tensor's methods.
    if isinstance(whole, Tensor) or (isinstance(step, int) and hasattr(whole, "__array__")):
        raise AuxiliaryError(
            f"term {name!r}: {role}={step!r} picks a part of a list, tuple or mapping, and here {what} "
            f"{'are' if what == 'targets' else 'is'} one tensor of shape {tuple(whole.shape)}; leave {role} out, or "
            "give a function where the parts are there in training only"
        )
    if isinstance(whole, Mapping) or isinstance(step, int):
        try:
            return whole[step]
        except (KeyError, IndexError, TypeError):
            pass
    elif isinstance(step, str) and hasattr(whole, step) and not callable(getattr(whole, step)):  # a method is no part
        return getattr(whole, step)
    raise AuxiliaryError(f"term {name!r}: {what} has no part {step!r}{nearest(str(step), parts(whole))}")


def first_tensor(name: str, whole: Any, what: str) -> Any:
    """What is meant when nobody says which part: a tensor itself, or the first part of anything else."""
    if isinstance(whole, Tensor):
        return whole
    if isinstance(whole, Mapping):
        found = next(iter(whole.values()), None)
    elif isinstance(whole, Sequence) and not isinstance(whole, str):
        found = whole[0] if whole else None
    elif dataclasses.is_dataclass(whole):
        found = getattr(whole, dataclasses.fields(whole)[0].name)
    else:
        found = None
    if not isinstance(found, Tensor):
        raise AuxiliaryError(
            f"term {name!r}: {what} is of type {type(whole).__name__}, and it is not clear which part of it is meant; "
            f"say so with Term(select=...){nearest('', parts(whole))}"
        )
    return found


def main_part(name: str, whole: Any, what: str) -> Any:
    """The main prediction when nobody says which part it is: the part of that name, or else the first."""
    if name in parts(whole):
        return one_step(name, whole, name, what)
    return first_tensor(name, whole, what)


def tensors_in(whole: Any) -> list[Tensor]:
    """All tensors of what a module returned: in tuples, lists, mappings and dataclasses."""
    if isinstance(whole, Tensor):
        return [whole]
    if isinstance(whole, Mapping):
        inside = list(whole.values())
    elif dataclasses.is_dataclass(whole) and not isinstance(whole, type):
        inside = [getattr(whole, field.name) for field in dataclasses.fields(whole)]
    else:
        inside = list(whole) if isinstance(whole, tuple | list) else []
    return [tensor for part in inside for tensor in tensors_in(part)]


def map_tensors(function: Callable[[Tensor], Tensor], whole: Any) -> Any:
    """A copy of tuples, lists, mappings and dataclasses with the function applied to every tensor inside."""
    if isinstance(whole, Tensor):
        return function(whole)
    if dataclasses.is_dataclass(whole) and not isinstance(whole, type):
        names = [field.name for field in dataclasses.fields(whole)]
        return dataclasses.replace(whole, **{name: map_tensors(function, getattr(whole, name)) for name in names})
    if isinstance(whole, Mapping):
        return {key: map_tensors(function, part) for key, part in whole.items()}
    if isinstance(whole, tuple) and hasattr(whole, "_fields"):
        return type(whole)(*(map_tensors(function, part) for part in whole))
    return type(whole)(map_tensors(function, part) for part in whole) if isinstance(whole, tuple | list) else whole


def check_output(name: str, output: Any, place: int, terms: int) -> Any:
    """The prediction of auxiliary term `name`, the one at `place` of `terms` without a tap, in a model's output.

    By name, where the output has a part of that name; else by order: from `(final, predictions)`, or from
    `(final, first, second, ...)`.
    """
    if isinstance(output, Mapping):
        if name in output:
            return output[name]
    elif name in getattr(output, "_fields", ()) or dataclasses.is_dataclass(output):
        if hasattr(output, name):
            return getattr(output, name)
    elif isinstance(output, Sequence) and len(output) > 1:
        rest = output[1] if len(output) == 2 and not isinstance(output[1], Tensor) else output[1:]
        if isinstance(rest, Mapping) and name in rest:
            return rest[name]
        if isinstance(rest, Sequence) and len(rest) == terms:
            return rest[place]
        if isinstance(rest, Sequence):
            raise AuxiliaryError(
                f"term {name!r}: the model returns {len(rest)} predictions beside the main one, and {terms} of the "
                "terms have neither tap nor select; say which is whose with Term(select=...)"
            )
    raise AuxiliaryError(
        f"term {name!r} has no tap, and the model's output ({type(output).__name__}) has no part of that name; give "
        f"Term(tap=...) or Term(select=...){nearest(name, parts(output))}"
    )


def parts(whole: Any) -> list[str]:
    """The names of the parts of a mapping, a dataclass or a named tuple."""
    if isinstance(whole, Mapping):
        return [str(key) for key in whole]
    if dataclasses.is_dataclass(whole):
        return [field.name for field in dataclasses.fields(whole)]
    return list(getattr(whole, "_fields", ()))
