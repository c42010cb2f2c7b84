"""Heads made from the shape of their input, on its device and in its dtype."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary._errors import AuxiliaryError, call_named


def trainable_dtypes(model: nn.Module) -> set[torch.dtype]:
    """The dtypes of a model's trainable parameters: floating point, without one-byte types, which are quantised."""
    return {p.dtype for p in model.parameters() if p.is_floating_point() and p.itemsize > 1}


@contextmanager
def probing(model: nn.Module) -> Generator[None]:
    """For one forward pass in evaluation mode and without gradients; restores the modes and the random state."""
    modes = {module: module.training for module in model.modules()}
    devices = {p.device for p in model.parameters() if p.is_cuda}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(list(devices)):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def make_head(name: str, factory: Any, state: Any, dtypes: set[torch.dtype]) -> nn.Module:
    """The head of term `name`.

    state: its input, from one forward pass of the model. dtypes: the model's `trainable_dtypes` before that pass, which
    under FSDP2 replaces its parameters by ones of another dtype. Raises AuxiliaryError if the state is no tensor, and
    if the factory returns no module.
    """
    if not isinstance(state, Tensor):
        raise AuxiliaryError(
            f"term {name!r}: its head is made from the shape of a tensor, and what it would read is of type "
            f"{type(state).__name__}; pick a tensor with Term(select=...), or give the head as a module"
        )
    head = call_named(f"term {name!r}: the function that makes its head", factory, state.shape)
    if not isinstance(head, nn.Module):
        raise AuxiliaryError(f"term {name!r}: the function that makes its head returned {head!r}, and not a module")
    return head.to(device=state.device, dtype=_head_dtype(state, dtypes))


def _head_dtype(state: Tensor, dtypes: set[torch.dtype]) -> torch.dtype | None:
    """The dtype of the state; None, to keep the head's own, if the state is no floating-point tensor.

    If no parameter of the model has the state's dtype, autocast or mixed precision has lowered it. The head's
    parameters then have the dtype of the model's.
    """
    if not (state.is_floating_point() or state.is_complex()):
        return None
    if not dtypes or state.dtype in dtypes or state.is_complex():
        return state.dtype
    return max(dtypes, key=lambda dtype: dtype.itemsize)
