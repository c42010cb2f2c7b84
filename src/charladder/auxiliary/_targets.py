"""The target and the mask of one term."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from charladder.auxiliary._counts import is_readable
from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._frozen_targets import FrozenOutputs, read_frozen
from charladder.auxiliary._predictions import read_tap
from charladder.auxiliary._select import first_tensor, map_tensors, pick
from charladder.auxiliary._taps import TapOutputs
from charladder.auxiliary._target_sources import FrozenTarget, TappedTarget, TargetSource
from charladder.auxiliary._term import DEFAULT_TARGET, Term


@dataclass
class ForwardPass:
    """One forward pass of the model, and what belongs to it.

    inputs: of the model, if the objective ran it. frozen: what frozen networks returned.
    """

    output: Any
    targets: Any
    tap_outputs: TapOutputs
    model: Any
    inputs: Any = None
    frozen: FrozenOutputs = field(default_factory=dict)


def target_of(name: str, term: Term, targets: Any) -> Any:
    """The target of a term in the data; None if there is none, because its loss takes no target or it has a source."""
    if term.target is DEFAULT_TARGET and isinstance(targets, Tensor):
        return targets
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


def target_to_count(term: Term, target: Any, targets: Any) -> Any:
    """What Term(count=function) is called with: the target, or `targets` for a target that is not in the data."""
    return targets if term.count is not None and isinstance(term.target, TargetSource) else target


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
        return read_frozen(name, source, forward.targets, forward.inputs, forward.frozen)
    if isinstance(source, TappedTarget):
        part = read_tap(name, source.tap, source.call, source.select, source.detach, forward.tap_outputs, forward.model)
    else:
        what = "the model's output"
        part = (
            first_tensor(name, forward.output, what, "returned(select=...)")
            if source.select is None
            else pick(name, forward.output, source.select, what, "target")
        )
    return map_tensors(Tensor.detach, part) if source.detach else part
