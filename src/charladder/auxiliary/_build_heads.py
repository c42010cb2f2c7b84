"""Heads made from the shape that they are to read, on its device and in its dtype."""

from typing import Any

import torch
from torch import Tensor, nn

from charladder.auxiliary._errors import AuxiliaryError, call_named
from charladder.auxiliary.heads import HeadFactory


def trainable_dtypes(model: nn.Module) -> set[torch.dtype]:
    """The dtypes in which a model may have trained parameters: without those of one byte, which are quantised."""
    return {p.dtype for p in model.parameters() if p.is_floating_point() and p.itemsize > 1}


def make_head(name: str, maker: HeadFactory, state: Any, known: set[torch.dtype]) -> nn.Module:
    """The head of term `name`.

    state: what it is to read, from one forward pass of the model. known: the model's `trained_dtypes` before that pass,
    in which FSDP2 puts parameters of another dtype in their place. Raises AuxiliaryError where the state is no tensor,
    and where the maker returns no module.
    """
    if not isinstance(state, Tensor):
        raise AuxiliaryError(
            f"term {name!r}: its head is made from the shape of a tensor, and what it would read is of type "
            f"{type(state).__name__}; pick a tensor with Term(select=...), or give the head as a module"
        )
    head = call_named(f"term {name!r}: the function that makes its head", maker, state.shape)
    if not isinstance(head, nn.Module):
        raise AuxiliaryError(f"term {name!r}: what was to make its head made {head!r}; it must return a module")
    return head.to(device=state.device, dtype=head_dtype(state, known))


def head_dtype(state: Tensor, known: set[torch.dtype]) -> torch.dtype | None:
    """The dtype of the state; None, to keep the head's own, where the state is no floating-point tensor.

    Where no parameter of the model has the state's dtype, autocast or mixed precision has lowered it. The head's
    parameters then have the dtype of the model's.
    """
    if not (state.is_floating_point() or state.is_complex()):
        return None
    if not known or state.dtype in known or state.is_complex():
        return state.dtype
    return max(known, key=lambda dtype: dtype.itemsize)
