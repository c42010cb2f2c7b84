"""Targets that do not come from the data: what a module of the model returns, the model's output, another network.

Each is given as Term(target=...), and read once the model has run (_targets.py).
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import is_pattern, match_modules
from charladder.auxiliary._taps import Taps
from charladder.auxiliary._wrappers import unwrap

Selector = Any


@dataclass(frozen=True)
class TappedTarget:
    """See `tapped`."""

    tap: str
    select: Selector
    call: int | None
    detach: bool


@dataclass(frozen=True)
class ReturnedTarget:
    """See `returned`."""

    select: Selector
    detach: bool


@dataclass(frozen=True, eq=False)
class FrozenTarget:
    """See `frozen`."""

    module: nn.Module
    inputs: Selector
    select: Selector
    tap: str | None
    taps: Taps  # the hook of the tap


TargetSource = TappedTarget | ReturnedTarget | FrozenTarget


def tapped(name: str, select: Selector = None, *, call: int | None = None, detach: bool = True) -> TappedTarget:
    """A target that module `name` of the model returns in the same forward pass; Term(target=tapped("layers.8")).

    select, call: as in Term. detach: no gradient flows into the target (stop-gradient).
    Raises AuxiliaryError for a pattern.

    >>> tapped("layers.8").tap
    'layers.8'
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AuxiliaryError(f"tapped({name!r}): give the name of a module")
    if is_pattern(name):
        raise AuxiliaryError(f"tapped({name!r}) is a pattern; a target is the output of one module")
    return TappedTarget(name, select, call, detach)


def returned(select: Selector = None, *, detach: bool = True) -> ReturnedTarget:
    """A target that is the model's own output, or the part of it that `select` names; detach: as in `tapped`."""
    return ReturnedTarget(select, detach)


def frozen(
    module: nn.Module, inputs: Selector = None, select: Selector = None, *, tap: str | None = None
) -> FrozenTarget:
    """A target that another network computes, without gradients and in evaluation mode.

    inputs: the part of `targets` that it reads: a key, or a function of `targets`. Left out: the inputs of the model,
    where the objective runs the model. A tuple is spread over its arguments, a mapping over its keyword arguments.
    tap: the name of a module inside it whose output is read, instead of the output of the network; no pattern.
    select: the part of that output, as in Term.
    The network is no part of the objective: its parameters are not in `objective.parameters()`, it is saved and moved
    to a device by you. Terms with the same network, inputs and tap run it once. For a target encoder that follows the
    model (EMA), give a torch.optim.swa_utils.AveragedModel, and update it after each step of the optimizer.
    Raises AuxiliaryError for what is no nn.Module, and for a tap that it does not have. Attaching the objective raises
    it if the model trains parameters of the network.
    """
    if not isinstance(module, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise AuxiliaryError(f"frozen() was given an object of type {type(module).__name__}; give an nn.Module")
    if tap is not None and is_pattern(tap):
        raise AuxiliaryError(f"frozen(tap={tap!r}) is a pattern; a target is the output of one module")
    taps = Taps()
    if tap is not None:
        base = unwrap(module, [tap])
        match_modules(base, tap, "frozen()")
        taps.attach(base, [tap], [], {})
    return FrozenTarget(module, inputs, select, tap, taps)
