"""What is bound to a training function: arguments of a partial, defaults, closures, attributes of an instance.

A result depends on these values as it does on the settings of an arm.
"""

import dataclasses
import enum
import functools
import types
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

_SCALARS = bool, int, float, complex, str, bytes, type(None), enum.Enum, PurePath
_CODE = type, types.ModuleType, types.BuiltinFunctionType  # known by their names alone
_FUNCTIONS = types.FunctionType, types.MethodType, functools.partial


@dataclass(frozen=True)
class BoundValues:
    """Values by name, as text. Of functions, classes and modules the text is the name.

    fixed: numbers, texts, and tuples and frozen dataclasses of them. changeable: lists, dicts, sets and other
    dataclasses, which a run may change.
    unseen: the names of other values, of which a change is not seen.
    """

    fixed: dict[str, str] = field(default_factory=dict[str, str])
    changeable: dict[str, str] = field(default_factory=dict[str, str])
    unseen: dict[str, None] = field(default_factory=dict[str, None])


def find_bound_values(train: Any) -> BoundValues:
    """Everything that is bound to a function, a functools.partial, a method or a callable instance."""
    bound = BoundValues()
    _collect(train, bound, set())
    if isinstance(function := unwrap(train), types.FunctionType):
        _add_all(_defaults(function), bound)
    return bound


def unwrap(train: Any) -> Any:
    """The function below functools.partial."""
    while isinstance(train, functools.partial):
        train = train.func
    return train


def _collect(train: Any, bound: BoundValues, seen: set[int]) -> None:
    if id(train) in seen or isinstance(train, _CODE):
        return
    seen.add(id(train))
    if isinstance(train, functools.partial):
        values = {f"argument {number}": value for number, value in enumerate(train.args)} | train.keywords
        _collect(train.func, bound, seen)
    elif isinstance(train, types.FunctionType):
        values = _closure(train)
    elif isinstance(train, types.MethodType):
        values = {"self": train.__self__} if isinstance(train.__self__, type) else _attributes(train.__self__)
        _collect(train.__func__, bound, seen)
    else:
        values = _attributes(train)
    for value in values.values():
        if isinstance(value, _FUNCTIONS):
            _collect(value, bound, seen)
    _add_all(values, bound)


def _defaults(function: types.FunctionType) -> dict[str, Any]:
    """Defaults of arguments by name."""
    code, defaults = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    return dict(zip(names, defaults, strict=True)) | (function.__kwdefaults__ or {})


def _closure(function: types.FunctionType) -> dict[str, Any]:
    """What a function uses of the functions around it."""
    values: dict[str, Any] = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values[name] = cell.cell_contents
        except ValueError:  # a name that has no value yet
            continue
    return values


def _attributes(instance: Any) -> dict[str, Any]:
    """The attributes of an instance; where it hides them, the instance itself."""
    return dict(vars(instance)) if hasattr(instance, "__dict__") else {"self": instance}


def _add_all(named: dict[str, Any], bound: BoundValues) -> None:
    for name, value in named.items():
        try:
            text, changeable = _describe(value)
        except (TypeError, RecursionError):
            bound.unseen[name] = None
            continue
        values = bound.changeable if changeable else bound.fixed
        values[name] = f"{values[name]}, {text}" if name in values else text  # functions may use the same name


def _describe(value: Any) -> tuple[str, bool]:
    """A value as text, and whether it may change. Raises TypeError for what is not plain."""
    if isinstance(value, _CODE + _FUNCTIONS):
        code = unwrap(value)
        return str(getattr(code, "__qualname__", None) or getattr(code, "__name__", type(code).__qualname__)), False
    if isinstance(value, _SCALARS) or repr(type(value)) in ("<class 'torch.device'>", "<class 'torch.dtype'>"):
        return repr(value), False
    if isinstance(value, tuple | frozenset):
        parts, changeable = list(value), False
    elif isinstance(value, list | set):
        parts, changeable = list(value), True
    elif isinstance(value, dict):
        parts, changeable = list(value.items()), True
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(one.name, getattr(value, one.name)) for one in dataclasses.fields(value)]
        changeable = not getattr(getattr(value, "__dataclass_params__", None), "frozen", False)
    else:
        raise TypeError
    described = [_describe(part) for part in parts]
    texts = [text for text, _ in described]
    if isinstance(value, set | frozenset):
        texts.sort()  # the order of a set differs between programs
    return f"{type(value).__name__}({', '.join(texts)})", changeable or any(inner for _, inner in described)
