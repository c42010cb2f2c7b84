"""The target and the mask of one term."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from charladder.auxiliary._counts import is_readable
from charladder.auxiliary._errors import AuxiliaryError, call_named
from charladder.auxiliary._predictions import read_tap
from charladder.auxiliary._select import call_model, first_tensor, map_tensors, pick
from charladder.auxiliary._taps import TapOutputs
from charladder.auxiliary._target_sources import FrozenTarget, TappedTarget, TargetSource
from charladder.auxiliary._term import DEFAULT_TARGET, Term


@dataclass
class ForwardPass:
    """One forward pass of the model, and what belongs to it.

    inputs: of the model, if the objective ran it. frozen: the outputs of frozen networks, by network and inputs.
    """

    output: Any
    targets: Any
    tap_outputs: TapOutputs
    model: Any
    inputs: Any = None
    frozen: dict[tuple[int, Any], Any] = field(default_factory=dict)


def target_of(name: str, term: Term, targets: Any) -> Any:
    """The target of a term in the data; None if there is none, because its loss takes no target or it has a source."""
    if term.target is None or isinstance(term.target, TargetSource):
        return None
    if term.target is not DEFAULT_TARGET:
        return pick(name, targets, term.target, "targets", "target")
    if isinstance(targets, Mapping):
        return pick(name, targets, term.target_name or name, "targets")
    if targets is None:
        raise AuxiliaryError(
            f"term {name!r} has no target; give targets, or Term(target=None) for a loss of the prediction alone"
        )
    return targets


def mask_of(name: str, term: Term, targets: Any) -> Tensor | None:
    """The mask of a term: booleans, or floating-point weights; None if all elements of its loss count."""
    if term.mask is None:
        return None
    mask = pick(name, targets, term.mask, "targets", "mask")
    if not isinstance(mask, Tensor):
        raise AuxiliaryError(f"term {name!r}: its mask is of type {type(mask).__name__}; it must be a tensor")
    if not mask.is_floating_point():
        return mask.bool()
    if mask.requires_grad:
        raise AuxiliaryError(f"term {name!r}: its mask requires a gradient and would get none; detach it")
    # Masks that are added to attention scores have 0 where an element counts, and a negative number elsewhere.
    if is_readable(mask) and not bool((mask >= 0).all()):
        raise AuxiliaryError(
            f"term {name!r}: its mask has numbers below 0 or NaN; floating-point numbers are weights of the loss's "
            "elements, and must be at least 0"
        )
    return mask


def read_target(name: str, term: Term, forward: ForwardPass) -> Any:
    """The target of a term, from the data or from its source."""
    if not isinstance(term.target, TargetSource):
        return target_of(name, term, forward.targets)
    source = term.target
    if isinstance(source, FrozenTarget):
        return _read_frozen(name, source, forward)
    if isinstance(source, TappedTarget):
        part = read_tap(name, source.tap, source.call, source.select, source.detach, forward.tap_outputs, forward.model)
    else:
        what = "the model's output"
        part = (
            first_tensor(name, forward.output, what)
            if source.select is None
            else pick(name, forward.output, source.select, what, "target")
        )
    return map_tensors(Tensor.detach, part) if source.detach else part


def _read_frozen(name: str, source: FrozenTarget, forward: ForwardPass) -> Any:
    key = id(source.module), id(source.inputs) if callable(source.inputs) else source.inputs
    if key not in forward.frozen:
        inputs = _frozen_inputs(name, source, forward)
        with torch.no_grad():
            forward.frozen[key] = call_named(f"term {name!r}: its frozen network", call_model, source.module, inputs)
    what = "the output of the frozen network"
    if source.select is None:
        return first_tensor(name, forward.frozen[key], what)
    return pick(name, forward.frozen[key], source.select, what, "target")


def _frozen_inputs(name: str, source: FrozenTarget, forward: ForwardPass) -> Any:
    if source.inputs is not None:
        return pick(name, forward.targets, source.inputs, "targets", "target")
    if forward.inputs is None:
        raise AuxiliaryError(
            f"term {name!r}: its frozen network reads the inputs of the model, and the objective did not run the "
            "model; say which part of targets it reads with frozen(module, inputs=...)"
        )
    return forward.inputs
