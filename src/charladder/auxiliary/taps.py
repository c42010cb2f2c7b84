"""Reading the inside of a model that its owner cannot edit: forward hooks on modules found by name.

The hooks lie on the model from `attach` to `remove`, so that a model compiled in between has them in its graph; they
do nothing outside a recorded forward pass, and the recomputation of gradient checkpointing is outside.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from charladder.auxiliary.errors import AuxiliaryError, nearest
from charladder.auxiliary.selection import tensors_in

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


class Recorder:
    """What the hooks write to: the calls of the `wanted` modules, by name."""

    def __init__(self) -> None:
        self.on = False
        self.wanted: set[str] = set()
        self.caught: dict[str, list[Call]] = {}


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


class Apart(nn.Module):
    """Base of Objective. A model may hold its objective as a submodule; the modules below such a submodule are then not
    parts of the model: they are neither tapped, nor do their parameters count as the model's."""


class Taps:
    """The hooks of one objective on one model."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.handles: dict[str, Any] = {}
        self.modules: dict[str, nn.Module] = {}

    def attach(self, model: nn.Module, names: Iterable[str], heads: Iterable[str]) -> None:
        """Hooks on the modules `names`; `heads` are modules that are called, and only kept at hand."""
        modules = named_modules(model)
        for name in names:
            self.handles[name] = modules[name].register_forward_hook(partial(record, self.recorder, name))
        self.modules = {name: modules[name] for name in heads}

    def remove(self) -> None:
        for handle in self.handles.values():
            handle.remove()
        self.handles.clear()
        self.modules.clear()

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


def unwrap(model: Any) -> Any:
    """The model itself, without DDP's and torch.compile's wrappers. Raises AuxiliaryError for wrappers that cannot be
    read through: DataParallel, whose copies run in threads, and FSDP1, whose inner modules see flat shards."""
    while isinstance(model, nn.Module):
        if isinstance(model, DataParallel):
            raise AuxiliaryError(
                "the inside of nn.DataParallel cannot be tapped, for it runs copies of the model; use "
                "DistributedDataParallel"
            )
        if type(model).__name__ == "FullyShardedDataParallel":
            raise AuxiliaryError("FSDP1 flattens what is inside; shard the model with FSDP2 (fully_shard)")
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        else:
            break
    return model


def modules_of(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, each once, without objectives and the modules that only objectives have."""
    found: dict[nn.Module, None] = {}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if module not in found and not isinstance(module, Apart):
            found[module] = None
            waiting += [child for child in module._modules.values() if child is not None]
    return list(found)


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The same by name; of modules whose names differ in a wrapper's part only, the outermost."""
    apart: set[nn.Module] = {module for module in model.modules() if isinstance(module, Apart)}
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(memo=apart):
        plain = ".".join(part for part in name.split(".") if part not in WRAPPERS)
        found.setdefault(plain, module)
    return found


def matching(model: nn.Module, pattern: str, who: str) -> list[str]:
    """The names of modules that fit `pattern`, in the model's order; `*` and the like stay within one part of a name.

    Raises AuxiliaryError that says `who` asks, and the nearest names, where none fits.
    """
    parts, names = pattern.split("."), list(named_modules(model))[1:]
    found = [
        name for name in names if len(name.split(".")) == len(parts) and all(map(fnmatchcase, name.split("."), parts))
    ]
    if not found:
        raise AuxiliaryError(f"{who}: the model has no module {pattern!r}{nearest(pattern, names)}")
    return found


def is_pattern(tap: str) -> bool:
    return any(sign in tap for sign in "*?[")


def compiled(model: Any) -> bool:
    """Whether a model, or something in it, runs through torch.compile."""
    if not isinstance(model, nn.Module):
        return False
    return any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in model.modules())
