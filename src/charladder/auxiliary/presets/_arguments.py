"""Checks of the arguments of presets that return terms, by the annotations of the preset."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import NoneType, UnionType
from typing import (
    Any,
    ParamSpec,
    SupportsFloat,
    SupportsIndex,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from torch import Tensor, nn

from charladder.auxiliary._errors import AuxiliaryError, first_line, nearest
from charladder.auxiliary._term import Term

_P = ParamSpec("_P")
_R = TypeVar("_R")
_TERM_FIELDS = [field.name for field in dataclasses.fields(Term) if field.init]
# By annotation: what a value must be an instance of, and how messages call one and several of them.
_SIMPLE: dict[Any, tuple[Any, str, str]] = {
    int: (SupportsIndex, "a whole number", "whole numbers"),
    float: ((SupportsFloat, SupportsIndex), "a number", "numbers"),
    str: (str, "a string", "strings"),
    NoneType: (NoneType, "None", "None"),
    Tensor: (Tensor, "a tensor", "tensors"),
    Callable: (Callable, "a function", "functions"),
    nn.Module: (nn.Module, "a module", "modules"),
}


def checked(preset: Callable[_P, _R]) -> Callable[_P, _R]:
    """A preset that raises AuxiliaryError for arguments that do not fit its annotations, and for unknown fields.

    Numbers, strings, tensors, modules and functions are checked, and sequences and mappings of them. A parameter whose
    annotation has another type is not. Each preset that returns terms has this decorator.
    """
    signature = inspect.signature(preset)

    @wraps(preset)
    def call(*arguments: _P.args, **keywords: _P.kwargs) -> _R:
        try:
            given = signature.bind(*arguments, **keywords).arguments
            for field in given.pop("fields", {}):
                if field not in _TERM_FIELDS:
                    raise AuxiliaryError(f"a Term has no field {field!r}{nearest(field, _TERM_FIELDS)}")
            hints = get_type_hints(preset)
            for name, value in given.items():
                _check(name, value, hints[name])
        except (TypeError, AuxiliaryError) as error:
            raise AuxiliaryError(f"{preset.__name__}: {first_line(error)}") from None
        try:
            return preset(*arguments, **keywords)
        except TypeError as error:  # such as a field of Term that the preset gives itself
            said = first_line(error).split("() ", 1)[-1]  # without the name of the function that was called
            raise AuxiliaryError(f"{preset.__name__}: {said}") from error

    return call


def _check(name: str, value: Any, hint: Any) -> None:
    if _is_known(hint) and not _fits(value, hint):
        raise AuxiliaryError(f"{name} is {_show(value)}; it must be {_describe(hint)}")


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type, without the parameters of functions and the subclasses of modules."""
    if get_origin(hint) in (UnionType, Union):
        return tuple(option for inner in get_args(hint) for option in _options(inner))
    if get_origin(hint) is Callable:
        return (Callable,)
    is_module = inspect.isclass(hint) and issubclass(cast(type[Any], hint), nn.Module)
    return (nn.Module,) if is_module else (cast(Any, hint),)


def _is_known(hint: Any) -> bool:
    return all(
        option in _SIMPLE or (get_origin(option) in (Sequence, Mapping) and all(map(_is_known, get_args(option))))
        for option in _options(hint)
    )


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, option) for option in _options(hint))


def _fits_one(value: Any, option: Any) -> bool:
    if option in _SIMPLE:
        return isinstance(value, _SIMPLE[option][0])
    is_mapping, items = isinstance(value, Mapping | nn.ModuleDict), cast(Mapping[Any, Any], value)
    inner = get_args(option)
    if get_origin(option) is Mapping:
        return is_mapping and all(_fits(key, inner[0]) and _fits(one, inner[1]) for key, one in items.items())
    # Also nn.ModuleList, and tensors and arrays of numbers.
    is_sequence = hasattr(value, "__len__") and hasattr(value, "__getitem__") and not isinstance(value, str)
    return is_sequence and not is_mapping and all(_fits(one, inner[0]) for one in value)


def _describe(hint: Any, several: bool = False) -> str:
    return " or ".join(_describe_one(option, several) for option in _options(hint))


def _describe_one(option: Any, several: bool) -> str:
    if option in _SIMPLE:
        return _SIMPLE[option][1 + several]
    inner = [_describe(one, several=True) for one in get_args(option)]
    if get_origin(option) is Mapping:
        return f"{'mappings' if several else 'a mapping'} from {inner[0]} to {inner[1]}"
    return f"{'sequences' if several else 'a sequence'} of {inner[0]}"


def _show(value: Any) -> str:
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    kind = _type_name(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[Any, Any], value).items()
        kinds = {f"{_type_name(key)}: {_type_name(one)}" for key, one in items}
    elif isinstance(value, list | tuple):
        kinds = {_type_name(one) for one in cast(Sequence[Any], value)}
    else:
        return f"of type {kind}"
    return f"a {kind} of {' and '.join(sorted(kinds))}" if kinds else f"an empty {kind}"


def _type_name(value: Any) -> str:
    return type(value).__name__
