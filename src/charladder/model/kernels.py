"""Training on a CPU: steps whose backward pass is written out, because torch composes it from many small ones there.

Each is the same mathematics as the torch function it stands for, and is tested against it. They take part only where
a gradient is asked for on a CPU; inference, GPUs and compiled networks use torch's own. They are called with inputs of
one type, which `lowered` gives under autocast, and compute in it.

Shapes: N heads of all streams, T characters, S characters seen, E head size, D features, R rows.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 128  # queries at once in attention: what lies above the diagonal is then mostly not computed
SCORES = 1 << 21  # attention weights at once: 8 MiB, within a processor's last cache


def by_hand(*tensors: Tensor) -> bool:
    """Whether a step on these tensors is one for this file."""
    return (
        torch.is_grad_enabled() and not torch.compiler.is_compiling() and all(t.device.type == "cpu" for t in tensors)
    )


def lowered(*tensors: Tensor) -> list[Tensor]:
    """The tensors in the type of products: that of autocast where it is on, else their own."""
    if not torch.is_autocast_enabled("cpu"):
        return list(tensors)
    return [tensor.to(torch.get_autocast_dtype("cpu")) for tensor in tensors]


def without_autocast(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A forward pass in the types of its inputs, as its backward pass is."""

    @functools.wraps(forward)
    def inside(*arguments: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return forward(*arguments)

    return inside


class Normalise(torch.autograd.Function):
    """RMSNorm with a gain (Zhang and Sennrich 2019): x / rms(x) * gain over the last dimension."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, gain_D: Tensor, epsilon: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_()
        inverse = square.div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, gain_D, inverse)
        return (x * inverse).mul_(gain_D)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        x, gain_D, inverse = ctx.saved_tensors
        D = x.shape[-1]
        product_RD = (gradient * x).reshape(-1, D)
        inverse_R = inverse.reshape(-1)
        gain_gradient_D = torch.mv(product_RD.mT, inverse_R)
        along_R = torch.mv(product_RD, gain_D).mul_(inverse_R.pow(3)).div_(-D)
        of_x = (gradient * inverse).mul_(gain_D)
        return of_x.addcmul_(x, along_R.view(inverse.shape)), gain_gradient_D, None


class Attend(torch.autograd.Function):
    """Causal attention, block by block of queries; the weights are kept for the backward pass.

    torch's own kernel computes them anew there, and takes half as long again for heads of 64 and windows of 512.
    """

    @staticmethod
    @without_autocast
    def forward(ctx: Any, q_NTE: Tensor, k_NTE: Tensor, v_NTE: Tensor) -> Tensor:
        N, T, E = q_NTE.shape
        scaled_NTE = q_NTE * (1 / math.sqrt(E))
        y_NTE, weights = torch.empty_like(v_NTE), []
        future = torch.full((min(BLOCK, T), min(BLOCK, T)), -math.inf, dtype=q_NTE.dtype).triu_(1)
        for heads, begin, end in pieces(N, T):
            w_NTS = torch.bmm(scaled_NTE[heads, begin:end], k_NTE[heads, :end].mT)
            w_NTS[:, :, begin:].add_(future[: end - begin, : end - begin])
            w_NTS = w_NTS.softmax(-1)
            y_NTE[heads, begin:end] = torch.bmm(w_NTS, v_NTE[heads, :end])
            weights.append(w_NTS)
        ctx.save_for_backward(scaled_NTE, k_NTE, v_NTE, *weights)
        return y_NTE

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_NTE: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        scaled_NTE, k_NTE, v_NTE, *weights = ctx.saved_tensors
        N, T, E = scaled_NTE.shape
        of_q, of_k, of_v = torch.empty_like(scaled_NTE), torch.zeros_like(k_NTE), torch.zeros_like(v_NTE)
        for (heads, begin, end), w_NTS in zip(pieces(N, T), weights, strict=True):
            g_NTE = gradient_NTE[heads, begin:end]
            of_v[heads, :end].baddbmm_(w_NTS.mT, g_NTE)
            of_w = torch.bmm(g_NTE, v_NTE[heads, :end].mT)
            of_score = torch.ops.aten._softmax_backward_data(of_w, w_NTS, -1, w_NTS.dtype)
            of_q[heads, begin:end] = torch.bmm(of_score, k_NTE[heads, :end])
            of_k[heads, :end].baddbmm_(of_score.mT, scaled_NTE[heads, begin:end])
        return of_q.mul_(1 / math.sqrt(E)), of_k, of_v


def pieces(heads: int, length: int) -> list[tuple[slice, int, int]]:
    """Heads, first query and the one after the last, of each piece of attention."""
    group = max(1, SCORES // (min(BLOCK, length) * length))
    return [
        (slice(first, first + group), begin, min(begin + BLOCK, length))
        for first in range(0, heads, group)
        for begin in range(0, length, BLOCK)
    ]


class Rotate(torch.autograd.Function):
    """Rotary positions, into memory of its own that is contiguous in the order of x's dimensions."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
        ctx.angles = cos_TE, sin_TE
        return turned(x, cos_TE, sin_TE, 1)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor, None, None]:
        cos_TE, sin_TE = ctx.angles
        return turned(gradient, cos_TE, sin_TE, -1), None, None


def turned(x: Tensor, cos_TE: Tensor, sin_TE: Tensor, sense: int) -> Tensor:
    """Pairs half a head apart, turned by their angles; back again where `sense` is -1."""
    half = x.shape[-1] // 2
    cos, sin = cos_TE[:, :half], sin_TE[:, :half]
    y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, cos.dtype))
    (x_low, x_high), (y_low, y_high) = x.chunk(2, -1), y.chunk(2, -1)
    torch.mul(x_low, cos, out=y_low).addcmul_(x_high, sin, value=-sense)
    torch.mul(x_high, cos, out=y_high).addcmul_(x_low, sin, value=sense)
    return y


class Gated(torch.autograd.Function):
    """SwiGLU (Shazeer 2020) of (R, D) rows: silu(x gate) * (x up), then down; gate and up in one product."""

    @staticmethod
    @without_autocast
    def forward(ctx: Any, x_RD: Tensor, gate_FD: Tensor, up_FD: Tensor, down_DF: Tensor) -> Tensor:
        both_GD = torch.cat((gate_FD, up_FD))
        both_RG = x_RD @ both_GD.mT
        gate_RF, up_RF = both_RG.chunk(2, -1)
        swish_RF = torch.nn.functional.silu(gate_RF)
        hidden_RF = swish_RF * up_RF
        ctx.save_for_backward(x_RD, both_GD, down_DF, both_RG, swish_RF, hidden_RF)
        return hidden_RF @ down_DF.mT

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_RD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_RD, both_GD, down_DF, both_RG, swish_RF, hidden_RF = ctx.saved_tensors
        gate_RF, up_RF = both_RG.chunk(2, -1)
        of_hidden_RF = gradient_RD @ down_DF
        of_both_RG = torch.empty_like(both_RG)
        of_gate_RF, of_up_RF = of_both_RG.chunk(2, -1)
        torch.mul(of_hidden_RF, swish_RF, out=of_up_RF)
        torch.ops.aten.silu_backward.grad_input(of_hidden_RF.mul_(up_RF), gate_RF, grad_input=of_gate_RF)
        of_gate_FD, of_up_FD = (of_both_RG.mT @ x_RD).chunk(2)
        return of_both_RG @ both_GD, of_gate_FD, of_up_FD, gradient_RD.mT @ hidden_RF
