"""Targets that do not come from the data: what a module of the model returns, the model's output, another network.

Each is given as Term(target=...), and read once the model has run (_targets.py).
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from charladder.auxiliary._errors import AuxiliaryError
from charladder.auxiliary._modules import is_pattern

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


TargetSource = TappedTarget | ReturnedTarget | FrozenTarget


def tapped(name: str, select: Selector = None, *, call: int | None = None, detach: bool = True) -> TappedTarget:
    """A target that module `name` of the model returns in the same forward pass; Term(target=tapped("layers.8")).

    select, call: as in Term. detach: no gradient flows into the target (stop-gradient).
    Raises AuxiliaryError for a pattern.

    >>> tapped("layers.8").tap
    'layers.8'
    """
    if is_pattern(name):
        raise AuxiliaryError(f"tapped({name!r}) is a pattern; a target is the output of one module")
    return TappedTarget(name, select, call, detach)


def returned(select: Selector = None, *, detach: bool = True) -> ReturnedTarget:
    """A target that is the model's own output, or the part of it that `select` names; detach: as in `tapped`."""
    return ReturnedTarget(select, detach)


def frozen(module: nn.Module, inputs: Selector = None, select: Selector = None) -> FrozenTarget:
    """A target that another network computes, without gradients; it is set to evaluation mode here.

    inputs: the part of `targets` that it reads: a key, or a function of `targets`. Left out: the inputs of the model,
    where the objective runs the model. A tuple is spread over its arguments, a mapping over its keyword arguments.
    select: the part of its output, as in Term. The network is no part of the objective: its parameters are not in
    `objective.parameters()`, and it is moved to a device by you. Terms with the same network and inputs run it once.
    """
    return FrozenTarget(module.eval(), inputs, select)
