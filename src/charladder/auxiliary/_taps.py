"""Forward hooks that record what modules of a model return.

The hooks stay on the model from `attach` to `remove`, so that a model compiled in between has them in its graph. They
record only while `Taps.recording` is active, and not while gradient checkpointing recomputes.
"""

import threading
import weakref
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import Link, inside_wrappers, links_to, module_at, named_modules, shared_modules
from charladder.auxiliary._select import tensors_in


@dataclass(slots=True)
class TapCall:
    """One call of a tapped module: its output, whether gradients were enabled, and the version counter of each tensor
    in the output (None where torch has no such counter: compiled, or in inference mode)."""

    output: Any
    gradients: bool
    versions: list[int] | None

    def is_modified(self) -> bool:
        """Whether a tensor of the output was changed in place after the module returned it."""
        return self.versions is not None and _versions(self.output) != self.versions


def _versions(output: Any) -> list[int]:
    """The version counter of each tensor in the output of a module."""
    return [output._version] if isinstance(output, torch.Tensor) else [t._version for t in tensors_in(output)]


# The calls of tapped modules in one forward pass, by the name of the tap.
TapOutputs = Mapping[str, list[TapCall]]


@dataclass
class CapturedPass:
    """What the tapped modules returned in a forward pass that the objective did not run itself.

    model: as the user calls it. wrappers: its DDP wrappers, as they were before the pass. was_read: whether a report
    was made from it. is_outdated: whether a tapped module ran again afterwards, outside of `capture`.
    """

    outputs: TapOutputs
    model: Any
    wrappers: Any
    was_read: bool = False
    is_outdated: bool = False


class Recorder(threading.local):
    """What the hooks write to: the calls of the `requested` modules, by name. Each thread has its own, so that threads
    may share an objective, or run the model beside it."""

    def __init__(self) -> None:
        self.is_active = False
        self.requested: set[str] = set()
        self.outputs: dict[str, list[TapCall]] = {}
        self.captured: CapturedPass | None = None

    def __reduce__(self) -> Any:
        return Recorder, ()  # a copied or pickled model has hooks that record nothing


def _record(recorder: Recorder, name: str, module: nn.Module, args: Any, output: Any) -> None:
    """The forward hook. Compiled, it does not read `requested`: that set changes whenever a term becomes inactive, and
    torch would compile the graph again each time. It records everything instead, and `recording` drops the rest.
    """
    if not recorder.is_active:
        # Gradient checkpointing runs modules again in the backward pass, which is of the captured pass itself.
        if recorder.captured is not None and not torch.compiler.is_compiling() and not _is_in_backward():
            recorder.captured.is_outdated = True
        return
    if torch.compiler.is_compiling():
        # A compiled graph may change its own tensors in place, so the hook records a copy.
        output = output.clone() if isinstance(output, torch.Tensor) else output
        recorder.outputs.setdefault(name, []).append(TapCall(output, torch.is_grad_enabled(), None))
    elif name in recorder.requested:
        versions = None if torch.is_inference_mode_enabled() else _versions(output)
        recorder.outputs.setdefault(name, []).append(TapCall(output, torch.is_grad_enabled(), versions))


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # pyright: ignore[reportPrivateUsage]


class Taps:
    """The attachment of one objective to one model: hooks, and the modules that were found by name.

    Deleting this object takes the hooks off the model.
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.handles: dict[str, RemovableHandle] = {}
        self.tapped: dict[str, nn.Module] = {}
        self.heads: dict[str, nn.Module] = {}  # by their names in the model
        self.shared: dict[str, dict[str, nn.Module]] = {}  # modules of the model in heads, by term and name
        self.model: nn.Module | None = None
        self.is_removed = False
        self._links: list[Link] = []  # from the model to its tapped modules and heads, each once
        self._remove_when_deleted()

    def _remove_when_deleted(self) -> None:
        weakref.finalize(self, _remove_hooks, self.handles).atexit = False

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._remove_when_deleted()

    def attach(
        self,
        model: nn.Module,
        names: Iterable[str],
        head_names: Iterable[str],
        head_modules: Mapping[str, nn.Module],
    ) -> None:
        """Registers hooks on the modules `names`.

        head_names: modules of the model that terms use as heads. head_modules: heads given as modules, by term.
        """
        modules = named_modules(model)
        for name in names:
            self.handles[name] = modules[name].register_forward_hook(partial(_record, self.recorder, name))
            self.tapped[name] = modules[name]
        self.heads = {name: modules[name] for name in head_names}
        self.shared = {term: shared_modules(modules, head) for term, head in head_modules.items()}
        self.model, self.is_removed = model, False
        paths = [*self.tapped, *self.heads, *(path for found in self.shared.values() for path in found)]
        links = [link for path in paths for link in links_to(model, path)]
        self._links = list({(id(children), part): (children, part, child) for children, part, child in links}.values())

    def remove(self) -> None:
        """Takes the hooks off the model."""
        self.model, self.is_removed = None, True
        _remove_hooks(self.handles)
        self.tapped.clear()
        self.heads.clear()
        self.shared.clear()
        self._links.clear()

    def check_current(self, term: str, taps: Iterable[str], head: Any) -> None:
        """Raises AuxiliaryError if a module that the term reads or calls was replaced in the model after `attach`."""
        if self.model is None:
            return
        shared = self.shared.get(term, {})
        modules = [
            *(("tap", tap, self.tapped) for tap in taps),
            ("head", head, self.heads),
            *(("head", path, shared) for path in shared),
        ]
        for role, path, attached in modules:
            if not isinstance(path, str) or path not in attached:
                continue
            current = module_at(self.model, path)
            if not any(module is attached[path] for module in inside_wrappers(current)):
                changed = (
                    "taken out of the model"
                    if current is None
                    else f"replaced by another module ({type(current).__name__})"
                )
                raise AuxiliaryError(
                    f"term {term!r}: its {role} {path} was {changed} after the objective was attached; attach after "
                    "the model is changed (by PEFT, for example), or call remove() and attach(model) again"
                )

    def is_current(self) -> bool:
        """Whether all tapped modules and heads are reached through the modules that were there at `attach`."""
        return all(children.get(part) is child for children, part, child in self._links)

    @contextmanager
    def recording(self, names: Iterable[str]) -> Generator[dict[str, list[TapCall]]]:
        """Records the outputs of the modules `names` into the dictionary that it yields."""
        recorder = self.recorder
        if recorder.is_active:
            raise AuxiliaryError(
                "this objective is already recording a forward pass; end its capture() before the next one, or before "
                "a call of the objective"
            )
        if recorder.captured is not None:
            recorder.captured.is_outdated = True
        outputs: dict[str, list[TapCall]] = {}
        recorder.requested, recorder.outputs, recorder.is_active = set(names), outputs, True
        try:
            yield outputs
        finally:
            recorder.is_active, recorder.outputs = False, {}
            for name in set(outputs) - recorder.requested:
                del outputs[name]


def _remove_hooks(handles: dict[str, RemovableHandle]) -> None:
    for handle in handles.values():
        handle.remove()
    handles.clear()
