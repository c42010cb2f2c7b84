"""Modules of a model by name or pattern, where wrappers may have added parts to the names."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError, nearest

# Parts of names that checkpoint wrappers and torch.compile add.
WRAPPER_PARTS = ("_checkpoint_wrapped_module", "_orig_mod")


def is_boundary(module: nn.Module) -> bool:
    """Whether a module is an objective. A model may hold its objective as a submodule. The modules below it are not
    parts of the model: they cannot be tapped, and their parameters do not count as the model's."""
    return getattr(type(module), "is_submodule_boundary", False)


def submodules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The direct submodules by attribute name. `named_children` leaves out a module that has a second name."""
    return module._modules  # pyright: ignore[reportPrivateUsage]


def model_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, each once, without objectives and the modules that only objectives have."""
    modules: dict[nn.Module, None] = {}
    stack = [model]
    while stack:
        module = stack.pop()
        if module not in modules and not is_boundary(module):
            modules[module] = None
            stack += [child for child in submodules(module).values() if child is not None]
    return list(modules)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a model by name, each once. Of a module and its wrapper, which have one name, the wrapper."""
    modules: dict[str, nn.Module] = {}
    for name, module in _walk(model, remove_duplicate=True):
        modules.setdefault(_without_wrapper_parts(name), module)
    return modules


def all_names(model: nn.Module) -> list[str]:
    """All names of modules; a module that is registered in several places has several."""
    return list(dict.fromkeys(_without_wrapper_parts(name) for name, _ in _walk(model, remove_duplicate=False)))


def shared_modules(modules: Mapping[str, nn.Module], head: nn.Module) -> dict[str, nn.Module]:
    """Those of a model's modules, by name, that a head consists of or contains, without the modules below them."""
    head_modules = set(head.modules())
    shared: dict[str, nn.Module] = {}
    for name, module in modules.items():
        if module in head_modules and not any(name.startswith(f"{parent}.") for parent in shared):
            shared[name] = module
    return shared


def module_at(model: nn.Module, name: str) -> nn.Module | None:
    """The module of this name, the outermost as in `named_modules`; None if there is none."""
    module: nn.Module | None = model
    for part in name.split("."):
        module = next((level for level in inside_wrappers(module) if part in submodules(level)), None)
        if module is None:
            return None
        module = submodules(module)[part]
    return module


# One step from a module to one of its submodules: the submodules by name, the name, and the submodule.
Link = tuple[dict[str, nn.Module | None], str, nn.Module]


def links_to(model: nn.Module, name: str) -> list[Link]:
    """The steps from a model to the module of this name, wrappers on the way included."""
    links: list[Link] = []
    module: nn.Module = model
    for part in name.split("."):
        levels = inside_wrappers(module)
        for outer, inner in pairwise(levels):
            if part in submodules(outer):
                break
            links += [(submodules(outer), key, inner) for key, child in submodules(outer).items() if child is inner]
        owner = next(level for level in levels if part in submodules(level))
        child = submodules(owner)[part]
        assert child is not None  # the module was found there
        links.append((submodules(owner), part, child))
        module = child
    return links


def inside_wrappers(module: nn.Module | None) -> list[nn.Module]:
    """A module and the modules that it wraps, the outermost first."""
    levels: list[nn.Module] = []
    while module is not None:
        levels.append(module)
        children = submodules(module)
        module = next((children[name] for name in WRAPPER_PARTS if name in children), None)
    return levels


def match_modules(model: nn.Module, pattern: str, caller: str) -> list[str]:
    """The names of modules that match `pattern`, in the model's order; `*` and the like match within one part of a
    name.

    Raises AuxiliaryError, which begins with `caller` and ends with the nearest names, if none matches.
    """
    names = list(named_modules(model))[1:]
    matches = matching_names(names, pattern)
    if not matches:
        raise AuxiliaryError(f"{caller}: the model has no module {pattern!r}{nearest(pattern, names)}")
    return matches


def matching_names(names: Iterable[str], pattern: str) -> list[str]:
    """Those of the names of modules that match a pattern, which may be a name itself."""
    parts = pattern.split(".")
    return [
        name for name in names if len(name.split(".")) == len(parts) and all(map(fnmatchcase, name.split("."), parts))
    ]


def is_pattern(tap: str) -> bool:
    """Whether a tap is a pattern of names instead of one name."""
    return any(sign in tap for sign in "*?[")


def is_compiled(model: Any) -> bool:
    """Whether a model, or a module in it, runs through torch.compile."""
    if not isinstance(model, nn.Module):
        return False
    return any(
        "_orig_mod" in submodules(module) or getattr(module, "_compiled_call_impl", None) is not None
        for module in model.modules()
    )


def _walk(model: Any, remove_duplicate: bool) -> Iterable[tuple[str, nn.Module]]:
    """`model.named_modules` without objectives and the modules below them."""
    objectives = {module for module in model.modules() if is_boundary(module)}
    return model.named_modules(memo=objectives, remove_duplicate=remove_duplicate)


def _without_wrapper_parts(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPER_PARTS)
