"""Reading the inside of a model that its owner cannot edit: forward hooks on modules found by name.

The hooks lie on the model from `attach` to `remove`, so that a model compiled in between has them in its graph; they
do nothing outside a recorded forward pass, and the recomputation of gradient checkpointing is outside.
"""

import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from charladder.auxiliary._errors import AuxiliaryError, nearest
from charladder.auxiliary._select import tensors_in

# What wrappers put into the names of the modules inside them.
WRAPPERS = ("_checkpoint_wrapped_module", "_orig_mod")


@dataclass
class Call:
    """One call of a tapped module: what it returned, whether gradients were on, and how often each of its tensors had
    been changed in place by then (None where torch does not count: compiled, or without gradients)."""

    output: Any
    gradients: bool
    versions: list[int] | None

    def changed(self) -> bool:
        """Whether somebody has changed it in place since: then it is no more what the module returned."""
        return self.versions is not None and [t._version for t in tensors_in(self.output)] != self.versions


class Recorder(threading.local):
    """What the hooks write to: the calls of the `wanted` modules, by name. Each thread has its own, so that threads may
    share an objective, or run the model beside it."""

    def __init__(self) -> None:
        self.on = False
        self.wanted: set[str] = set()
        self.caught: dict[str, list[Call]] = {}

    def __reduce__(self) -> Any:
        return Recorder, ()  # a copied or pickled model has hooks that record nothing


def record(recorder: Recorder, name: str, module: nn.Module, args: Any, output: Any) -> None:
    """The forward hook. While it is compiled it does not look at `wanted`: what is wanted changes whenever a term falls
    silent, and the graph would be compiled again each time. It keeps everything then, and `recording` drops the rest.
    """
    if not recorder.on:
        return
    if torch.compiler.is_compiling():
        # A compiled graph may change in place what is its own; the copy is ours.
        kept = output.clone() if isinstance(output, torch.Tensor) else output
        recorder.caught.setdefault(name, []).append(Call(kept, torch.is_grad_enabled(), None))
    elif name in recorder.wanted:
        versions = None if torch.is_inference_mode_enabled() else [t._version for t in tensors_in(output)]
        recorder.caught.setdefault(name, []).append(Call(output, torch.is_grad_enabled(), versions))


class SubmoduleBoundary(nn.Module):
    """Base of Objective. A model may hold its objective as a submodule; the modules below such a submodule are then not
    parts of the model: they are neither tapped, nor do their parameters count as the model's."""


class Taps:
    """The hooks of one objective on one model. They are taken off the model when this object is deleted."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.handles: dict[str, Any] = {}
        self.tapped: dict[str, nn.Module] = {}
        self.modules: dict[str, nn.Module] = {}
        self.lent: dict[str, dict[str, nn.Module]] = {}
        self.model: nn.Module | None = None
        self.remove_when_deleted()

    def remove_when_deleted(self) -> None:
        weakref.finalize(self, remove_all, self.handles).atexit = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.remove_when_deleted()

    def attach(
        self, model: nn.Module, names: Iterable[str], heads: Iterable[str], given: Mapping[str, nn.Module]
    ) -> None:
        """Hooks on the modules `names`; `heads` are modules that are called, and only kept at hand. given: heads by the
        names of their terms; which of their modules are the model's is remembered."""
        modules = named_modules(model)
        for name in names:
            self.handles[name] = modules[name].register_forward_hook(partial(record, self.recorder, name))
            self.tapped[name] = modules[name]
        self.modules = {name: modules[name] for name in heads}
        self.lent = {name: shared_modules(modules, head) for name, head in given.items()}
        self.model = model

    def remove(self) -> None:
        self.model = None
        remove_all(self.handles)
        self.tapped.clear()
        self.modules.clear()
        self.lent.clear()

    def check_current(self, name: str, model: nn.Module, tap: str | None, head: Any) -> None:
        """Raises AuxiliaryError where a module that term `name` reads or calls is no longer the model's."""
        lent = self.lent.get(name, {})
        places = [("tap", tap, self.tapped), ("head", head, self.modules), *(("head", path, lent) for path in lent)]
        for role, path, known in places:
            if not isinstance(path, str) or path not in known:
                continue
            now = module_at(model, path)
            if not any(module is known[path] for module in inside_wrappers(now)):
                changed = (
                    "taken out of the model" if now is None else f"replaced by another module ({type(now).__name__})"
                )
                raise AuxiliaryError(
                    f"term {name!r}: its {role} {path} was {changed} after the objective was attached; attach after "
                    "the model is changed (by PEFT, for example), or call remove() and attach(model) again"
                )

    @contextmanager
    def recording(self, names: Iterable[str]) -> Iterator[dict[str, list[Call]]]:
        """Between these lines, what the modules `names` return is kept in the mapping that this gives."""
        recorder, caught = self.recorder, {}
        recorder.wanted, recorder.caught, recorder.on = set(names), caught, True
        try:
            yield caught
        finally:
            recorder.on, recorder.caught = False, {}
            for name in set(caught) - recorder.wanted:
                del caught[name]


def remove_all(handles: dict[str, Any]) -> None:
    for handle in handles.values():
        handle.remove()
    handles.clear()


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, each once, without objectives and the modules that only objectives have."""
    found: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in found and not isinstance(module, SubmoduleBoundary):
            found[module] = None
            waiting += [child for child in module._modules.values() if child is not None]
    return list(found)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The same by name; of modules whose names differ in a wrapper's part only, the outermost."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(memo=objectives_in(model)):
        found.setdefault(plain(name), module)
    return found


def all_names(model: nn.Module) -> list[str]:
    """All names of modules; a module that lies in several places has several."""
    names = model.named_modules(memo=objectives_in(model), remove_duplicate=False)
    return list(dict.fromkeys(plain(name) for name, _ in names))


def shared_modules(modules: Mapping[str, nn.Module], head: nn.Module) -> dict[str, nn.Module]:
    """Those of a model's modules, by name, that a head consists of or contains, without the modules below them."""
    within, found = set(head.modules()), {}
    for name, module in modules.items():
        if module in within and not any(name.startswith(f"{above}.") for above in found):
            found[name] = module
    return found


def objectives_in(model: nn.Module) -> set[nn.Module]:
    return {module for module in model.modules() if isinstance(module, SubmoduleBoundary)}


def plain(name: str) -> str:
    """The name of a module without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def module_at(model: nn.Module, name: str) -> nn.Module | None:
    """The module of this name, the outermost as in `named_modules`; None where there is none."""
    module: nn.Module | None = model
    for part in name.split("."):
        module = next((one for one in inside_wrappers(module) if part in one._modules), None)
        if module is None:
            return None
        module = module._modules[part]
    return module


def inside_wrappers(module: nn.Module | None) -> list[nn.Module]:
    """A module and those inside it whose names in the model differ by a wrapper's part only."""
    found = []
    while module is not None:
        found.append(module)
        module = next((module._modules[name] for name in WRAPPERS if name in module._modules), None)
    return found


def match_modules(model: nn.Module, pattern: str, who: str) -> list[str]:
    """The names of modules that fit `pattern`, in the model's order; `*` and the like stay within one part of a name.

    Raises AuxiliaryError that says `who` asks, and the nearest names, where none fits.
    """
    names = list(named_modules(model))[1:]
    found = matching_names(names, pattern)
    if not found:
        raise AuxiliaryError(f"{who}: the model has no module {pattern!r}{nearest(pattern, names)}")
    return found


def matching_names(names: Iterable[str], pattern: str) -> list[str]:
    """Those of the names of modules that fit a pattern, which may be a name itself."""
    parts = pattern.split(".")
    return [
        name for name in names if len(name.split(".")) == len(parts) and all(map(fnmatchcase, name.split("."), parts))
    ]


def is_pattern(tap: str) -> bool:
    return any(sign in tap for sign in "*?[")


def compiled(model: Any) -> bool:
    """Whether a model, or something in it, runs through torch.compile."""
    if not isinstance(model, nn.Module):
        return False
    return any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in model.modules())
