"""Autograd functions for training on a CPU: parts of a block whose backward pass is written by hand, because torch
composes it from many small operations there and saves more tensors than necessary.

Each is the same mathematics as torch's functions, and is tested against them. accelerate.py puts them into a network.
All operations except matrix products are in reference.py and native.py, attention is in causal_attention.py. Under
autocast, matrix products have its dtype and the residual stream keeps its own. `grad_x` is the gradient of the loss
with respect to x, in the shape of x.

Shapes: B windows, T characters, R = B T rows, D width, F feed-forward width, G 3 D (queries, keys and values
concatenated) or 2 F (gate and up), N heads of all windows, E head size.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charladder.kernels import native, reference
from charladder.kernels.causal_attention import attention, attention_backward
from charladder.kernels.reference import HeadLayout


def matmul_dtype(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with x: that of autocast where it is enabled, otherwise that of x."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def choose_operations(x: Tensor, dtype: torch.dtype) -> ModuleType:
    """The module (native or reference) that has the operations for a residual stream like x and this matmul dtype."""
    return native if native.supports(x, dtype) else reference


def as_rows(x: Tensor) -> Tensor:
    """(..., D) as contiguous rows."""
    return x.reshape(-1, x.shape[-1]).contiguous()


def concatenate(dtype: torch.dtype, *weights: Tensor) -> Tensor:
    """Matrices concatenated along their first dimension, in the matmul dtype."""
    if dtype == weights[0].dtype:
        return torch.cat(weights)
    rows = [len(weight) for weight in weights]
    matrix = weights[0].new_empty(sum(rows), weights[0].shape[1], dtype=dtype)
    for part, weight in zip(matrix.split(rows), weights, strict=True):
        part.copy_(weight)
    return matrix


def without_autocast(run: Callable[..., Any]) -> Callable[..., Any]:
    """Runs a forward or backward pass with autocast disabled: the pass chooses its dtypes itself."""

    def inside(*arguments: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            return run(*arguments)

    return inside


class RMSNormFunction(torch.autograd.Function):
    """RMSNorm with a gain over the last dimension, in the dtype of x."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, epsilon: float) -> Tensor:
        x_RD = as_rows(x)
        y_RD, inverse_R1 = choose_operations(x_RD, x.dtype).rms_norm(x_RD, gain_D, epsilon, x.dtype)
        ctx.save_for_backward(x_RD, gain_D, inverse_R1)
        return y_RD.view(x.shape)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        x_RD, gain_D, inverse_R1 = ctx.saved_tensors
        ops = choose_operations(x_RD, x_RD.dtype)
        grad_x_RD, grad_gain_D = ops.rms_norm_backward(as_rows(gradient), x_RD, gain_D, inverse_R1, None)
        return grad_x_RD.view(gradient.shape), grad_gain_D, None


class AttentionFunction(torch.autograd.Function):
    """x + attention(norm(x)): RMSNorm, QK-norm, rotation, causal attention and its output, without biases."""

    @staticmethod
    def forward(
        ctx: Any,
        x_BTD: Tensor,
        gain_D: Tensor,
        query_DD: Tensor,
        key_DD: Tensor,
        value_DD: Tensor,
        query_norm_E: Tensor,
        key_norm_E: Tensor,
        output_DD: Tensor,
        cos_sin: tuple[Tensor, Tensor] | None,
        epsilon: float,
    ) -> Tensor:
        dtype = matmul_dtype(x_BTD)
        with torch.autocast("cpu", enabled=False):
            B, T, D = x_BTD.shape
            E = len(query_norm_E)
            layout = HeadLayout(B, T, D // E, E)
            x_RD = as_rows(x_BTD)
            ops = choose_operations(x_RD, dtype)
            cos_sin = cos_sin or (gain_D.new_ones(T, E), gain_D.new_zeros(T, E))
            gain_2E = torch.stack((query_norm_E, key_norm_E))
            qkv_GD, output_DD = concatenate(dtype, query_DD, key_DD, value_DD), output_DD.to(dtype)
            normed_RD, inverse_R1 = ops.rms_norm(x_RD, gain_D, epsilon, dtype)
            qkv_RG = normed_RD @ qkv_GD.mT
            qkv_3NTE, inverse_2BTH = ops.split_heads(qkv_RG, gain_2E, cos_sin, epsilon, layout)
            y_RD, saved = attention(ops, qkv_3NTE, layout)
            ctx.layout, ctx.cos_sin, ctx.ops = layout, cos_sin, ops
            ctx.save_for_backward(
                x_RD, gain_D, inverse_R1, normed_RD, qkv_GD, qkv_RG, gain_2E, inverse_2BTH, qkv_3NTE, y_RD, output_DD,
                *saved,
            )  # fmt: skip
            # This may be a view, because it is not the output of a block: see SwiGLUFunction.
            return (x_RD + y_RD @ output_DD.mT).view(x_BTD.shape)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, gradient_BTD: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (
            x_RD, gain_D, inverse_R1, normed_RD, qkv_GD, qkv_RG, gain_2E, inverse_2BTH, qkv_3NTE, y_RD, output_DD,
            *saved,
        ) = ctx.saved_tensors  # fmt: skip
        ops, parameter_dtype = ctx.ops, gain_D.dtype
        grad_residual_RD = as_rows(gradient_BTD)
        grad_branch_RD = grad_residual_RD.to(y_RD.dtype)
        grad_output_DD = grad_branch_RD.mT @ y_RD
        grad_qkv_3NTE = attention_backward(ops, grad_branch_RD @ output_DD, qkv_3NTE, y_RD, saved, ctx.layout)
        grad_qkv_RG, grad_gain_2E = ops.split_heads_backward(
            grad_qkv_3NTE, qkv_RG, gain_2E, inverse_2BTH, ctx.cos_sin, ctx.layout
        )
        grad_qkv = (grad_qkv_RG.mT @ normed_RD).to(parameter_dtype).chunk(3)
        grad_x_RD, grad_gain_D = ops.rms_norm_backward(grad_qkv_RG @ qkv_GD, x_RD, gain_D, inverse_R1, grad_residual_RD)
        grad_x_BTD = grad_x_RD.view(gradient_BTD.shape)
        return (
            grad_x_BTD,
            grad_gain_D.to(parameter_dtype),
            *grad_qkv,
            *grad_gain_2E.to(parameter_dtype),
            grad_output_DD.to(parameter_dtype),
            None,
            None,
        )


class SwiGLUFunction(torch.autograd.Function):
    """x + feed_forward(norm(x)): RMSNorm and SwiGLU (Shazeer 2020) without biases; gate and up in one product."""

    @staticmethod
    def forward(
        ctx: Any, x_BTD: Tensor, gain_D: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor, epsilon: float
    ) -> Tensor:
        dtype = matmul_dtype(x_BTD)
        with torch.autocast("cpu", enabled=False):
            x_RD = as_rows(x_BTD)
            ops = choose_operations(x_RD, dtype)
            gate_up_GD, down_DF = concatenate(dtype, gate_FD, up_FD), down_DF.to(dtype)
            normed_RD, inverse_R1 = ops.rms_norm(x_RD, gain_D, epsilon, dtype)
            gate_up_RG = normed_RD @ gate_up_GD.mT
            hidden_RF = ops.swiglu(gate_up_RG)
            ctx.ops = ops
            ctx.save_for_backward(x_RD, gain_D, inverse_R1, normed_RD, gate_up_GD, gate_up_RG, hidden_RF, down_DF)
            # Not a view, because FSDP2 registers hooks on the output of a block.
            return x_BTD + (hidden_RF @ down_DF.mT).view(x_BTD.shape)

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, gradient_BTD: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x_RD, gain_D, inverse_R1, normed_RD, gate_up_GD, gate_up_RG, hidden_RF, down_DF = ctx.saved_tensors
        ops, parameter_dtype = ctx.ops, gain_D.dtype
        grad_residual_RD = as_rows(gradient_BTD)
        grad_branch_RD = grad_residual_RD.to(hidden_RF.dtype)
        grad_down_DF = (grad_branch_RD.mT @ hidden_RF).to(parameter_dtype)
        grad_gate_up_RG = ops.swiglu_backward(grad_branch_RD @ down_DF, gate_up_RG)
        grad_gate_FD, grad_up_FD = (grad_gate_up_RG.mT @ normed_RD).to(parameter_dtype).chunk(2)
        grad_x_RD, grad_gain_D = ops.rms_norm_backward(
            grad_gate_up_RG @ gate_up_GD, x_RD, gain_D, inverse_R1, grad_residual_RD
        )
        grad_x_BTD = grad_x_RD.view(gradient_BTD.shape)
        return grad_x_BTD, grad_gain_D.to(parameter_dtype), grad_gate_FD, grad_up_FD, grad_down_DF, None
