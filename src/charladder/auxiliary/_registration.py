"""Heads and losses as submodules of an objective, and their keys in its `state_dict`."""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn

from charladder.auxiliary._modules import model_modules
from charladder.auxiliary._term import Term

_EMPTY = nn.ModuleDict()


def register_modules(
    terms: Mapping[str, Term], heads: nn.ModuleDict, losses: nn.ModuleDict, model: nn.Module | None
) -> None:
    """Adds the head and loss modules of terms to `heads` and `losses`, each once.

    A module that belongs to the model is left out, and so is a head that has only parameters of the model.
    """
    of_model: set[int] = set() if model is None else set(map(id, model_modules(model)))
    parameters = model_parameter_ids(model)
    of_model |= {id(head) for head in heads.values() if parameters >= set(map(id, head.parameters())) != set()}
    for key in [key for key, head in heads.items() if id(head) in of_model]:
        del heads[key]
    keys = module_keys(terms)
    for name, term in terms.items():
        for registered, module in ((heads, term.head), (losses, term.loss)):
            if not isinstance(module, nn.Module) or id(module) in of_model:
                continue
            if all(module is not other for other in registered.values()):
                key = keys[name]
                while key in registered:
                    key += "_"
                registered[key] = module


def model_parameter_ids(model: nn.Module | None) -> set[int]:
    """The ids of the model's parameters, without those that only an objective inside the model has."""
    modules = [] if model is None else model_modules(model)
    return {id(parameter) for module in modules for parameter in module.parameters(recurse=False)}


def module_keys(names: Iterable[str]) -> dict[str, str]:
    """A key for each term's name: the name with `.` written as `_`, which nn.ModuleDict allows.

    Two names that would have one key (`a.b` and `a_b`) both get a checksum of the name behind it. No key depends on the
    order of the terms.
    """
    keys = {name: _not_an_attribute(name.replace(".", "_")) for name in names}
    times = Counter(keys.values())
    return {name: key if times[key] == 1 else f"{key}_{zlib.crc32(name.encode()):08x}" for name, key in keys.items()}


def _not_an_attribute(key: str) -> str:
    """The key with `_` behind it if it is an attribute of every nn.ModuleDict, such as `type`."""
    return f"{key}_" if hasattr(_EMPTY, key) else key
