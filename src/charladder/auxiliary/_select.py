"""Parts of a model's output, of a module's output, or of the targets."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

from torch import Tensor

from charladder.auxiliary._errors import AuxiliaryError, call_named, nearest


def is_mapping(value: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(value, Mapping)


def is_sequence(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence)


def is_tuple_or_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, tuple | list)


def pick(name: str, container: Any, selector: Any, what: str, role: str = "select") -> Any:
    """The part of `container` that a selector names: a key, index or attribute, several in turn, or a function.

    name: the term. what, role: how messages call the container and the field of the Term that has the selector.
    Raises AuxiliaryError if there is no such part, and if a function raises.
    """
    if callable(selector):
        return call_named(f"term {name!r}: its {role} function", selector, container)
    for step in selector if is_tuple(selector) else (selector,):
        container = _pick_one(name, container, step, what, role)
    return container


def call_model(model: Callable[..., Any], inputs: Any) -> Any:
    """What a model returns. A tuple is spread over its arguments, a mapping over its keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if type(inputs) is tuple else model(inputs)


def is_tuple(value: Any) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _pick_one(name: str, container: Any, step: Any, what: str, role: str = "select") -> Any:
    # An index would take one sample of a batch, and a name one of a tensor's methods.
    if isinstance(container, Tensor) or (isinstance(step, int) and hasattr(container, "__array__")):
        raise AuxiliaryError(
            f"term {name!r}: {role}={step!r} picks a part of a list, tuple or mapping, and here {what} "
            f"{'are' if what == 'targets' else 'is'} one tensor of shape {tuple(container.shape)}; leave {role} out, "
            "or give a function where the parts are there in training only"
        )
    if is_mapping(container) or isinstance(step, int):
        try:
            return container[step]
        except (KeyError, IndexError, TypeError):
            pass
    elif isinstance(step, str) and hasattr(container, step) and not callable(getattr(container, step)):
        return getattr(container, step)  # an attribute, and not a method
    raise AuxiliaryError(f"term {name!r}: {what} has no part {step!r}{nearest(str(step), part_names(container))}")


def first_tensor(name: str, container: Any, what: str, choice: str = "Term(select=...)") -> Tensor:
    """The part that is used without a selector: the container if it is a tensor, else its first part.

    choice: how a message says that the part can be chosen.
    """
    first = container
    if is_mapping(container):
        first = next(iter(container.values()), None)
    elif is_sequence(container) and not isinstance(container, str):
        first = container[0] if container else None
    elif dataclasses.is_dataclass(container):
        first = getattr(container, dataclasses.fields(container)[0].name)
    if not isinstance(first, Tensor):
        raise AuxiliaryError(
            f"term {name!r}: {what} is of type {type(container).__name__}, and it is not clear which part of it is "
            f"meant; say so with {choice}{nearest('', part_names(container))}"
        )
    return first


def main_prediction(name: str, output: Any, what: str) -> Any:
    """The main prediction without a selector: the part with the term's name, or else the first."""
    if name in part_names(output):
        return _pick_one(name, output, name, what)
    return first_tensor(name, output, what)


def auxiliary_prediction(name: str, output: Any, place: int, terms: int) -> Any:
    """The prediction of auxiliary term `name`, number `place` of the `terms` without a tap, in a model's output.

    By name, if the output has a part of that name; else by order: from `(final, predictions)`, or from
    `(final, first, second, ...)`.
    """
    if is_mapping(output):
        if name in output:
            return output[name]
    elif name in getattr(output, "_fields", ()) or dataclasses.is_dataclass(output):
        if hasattr(output, name):
            return getattr(output, name)
    elif is_sequence(output) and len(output) > 1:
        rest: Any = output[1] if len(output) == 2 and not isinstance(output[1], Tensor) else output[1:]
        if is_mapping(rest) and name in rest:
            return rest[name]
        if is_sequence(rest) and len(rest) == terms:
            return rest[place]
        if is_sequence(rest):
            raise AuxiliaryError(
                f"term {name!r}: the model returns {len(rest)} predictions beside the main one, and {terms} of the "
                "terms have neither tap nor select; choose the prediction of each with Term(select=...)"
            )
    raise AuxiliaryError(
        f"term {name!r} has no tap, and the model's output ({type(output).__name__}) has no part of that name; give "
        f"Term(tap=...) or Term(select=...){nearest(name, part_names(output))}"
    )


def tensors_in(container: Any) -> list[Tensor]:
    """All tensors in tuples, lists, mappings and dataclasses, at any depth."""
    if isinstance(container, Tensor):
        return [container]
    parts: list[Any] = []
    if is_mapping(container):
        parts += container.values()
    elif dataclasses.is_dataclass(container) and not isinstance(container, type):
        parts += [getattr(container, field.name) for field in dataclasses.fields(container)]
    elif is_tuple_or_list(container):
        parts += container
    return [tensor for part in parts for tensor in tensors_in(part)]


def map_tensors(function: Callable[[Tensor], Tensor], container: Any) -> Any:
    """A copy of tuples, lists, mappings and dataclasses with the function applied to every tensor inside."""
    if isinstance(container, Tensor):
        return function(container)
    if dataclasses.is_dataclass(container) and not isinstance(container, type):
        parts = {f.name: map_tensors(function, getattr(container, f.name)) for f in dataclasses.fields(container)}
        return dataclasses.replace(container, **parts)
    if is_mapping(container):
        return {key: map_tensors(function, part) for key, part in container.items()}
    if not is_tuple_or_list(container):
        return container
    mapped: Any = [map_tensors(function, part) for part in container]
    kind: Any = type(container)
    return kind(*mapped) if hasattr(container, "_fields") else kind(mapped)


def part_names(container: Any) -> list[str]:
    """The names of the parts of a mapping, a dataclass or a named tuple."""
    if is_mapping(container):
        return [str(key) for key in container]
    if dataclasses.is_dataclass(container):
        return [field.name for field in dataclasses.fields(container)]
    return list(getattr(container, "_fields", ()))
