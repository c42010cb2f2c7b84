"""Losses of 0 whose gradients are zeros."""

from typing import Any

import torch
from torch import Tensor


class _ZeroLoss(torch.autograd.Function):
    """0, with a gradient of zeros for every tensor. Not `0 * tensor`, which is NaN if the tensor is infinite."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*(tensor.new_empty(0) for tensor in tensors))
        ctx.shapes = [tensor.shape for tensor in tensors]
        return tensors[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return tuple(like.new_zeros(shape) for like, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True))


class _ZeroGradientWhere(torch.autograd.Function):
    """The same tensor, with a gradient of zeros where `empty` is true, even if the gradient is NaN."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, empty: Tensor) -> Tensor:
        ctx.save_for_backward(empty)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (empty,) = ctx.saved_tensors
        return torch.where(empty, 0, gradients[0]), None


def zero_loss(tensors: list[Tensor]) -> Tensor:
    """0, from which the backward pass reaches all of these tensors that require gradients."""
    reached = [tensor for tensor in tensors if tensor.requires_grad]
    if not reached:
        return torch.zeros((), device=tensors[0].device if tensors else None)
    zero: Any = _ZeroLoss
    return zero.apply(*reached)


def zero_gradient_where(empty: Tensor, tensor: Tensor) -> Tensor:
    """The tensor, whose gradient becomes zeros if `empty` is true."""
    replace: Any = _ZeroGradientWhere
    return replace.apply(tensor, empty) if tensor.requires_grad else tensor
