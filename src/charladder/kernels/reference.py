"""Reference operations: all operations of a block except matrix products, forward and backward, for training on a CPU;
in torch and for any dtype.

native.py has the same functions in C, each in one pass over memory; autograd_functions.py chooses between the two.

Shapes: R rows (characters of all windows), D width, B windows, T characters, H heads, E head size, F feed-forward
width, G 3 D (queries, keys and values concatenated) or 2 F (gate and up), N = B H, Q queries of a block, S keys.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class HeadLayout(NamedTuple):
    """The shape of queries, keys and values: rows are (windows length, heads size)."""

    windows: int
    length: int
    heads: int
    size: int


def rms_norm(x_RD: Tensor, gain_D: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """RMSNorm (Zhang and Sennrich 2019): x / rms(x) * gain in the matmul dtype, and 1 / rms(x), (R, 1)."""
    wide = torch.promote_types(x_RD.dtype, torch.float32)
    square_R1 = torch.linalg.vector_norm(x_RD, dim=-1, keepdim=True, dtype=wide).square_()
    inverse_R1 = square_R1.div_(x_RD.shape[-1]).add_(epsilon).rsqrt_()
    return (x_RD * inverse_R1).mul_(gain_D).to(dtype), inverse_R1


def rms_norm_backward(
    grad_y_RD: Tensor, x_RD: Tensor, gain_D: Tensor, inverse_R1: Tensor, grad_residual_RD: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the gain. `grad_residual_RD`, the gradient of the residual connection, is
    added to that of x."""
    # grad_x = gain grad_y / rms - x sum(gain grad_y x) / (D rms^3)
    product_RD = grad_y_RD * x_RD
    x_coefficient_R1 = (product_RD @ gain_D.to(product_RD.dtype))[:, None] * inverse_R1.pow(3).div_(-x_RD.shape[-1])
    grad_x_RD = (grad_y_RD * inverse_R1).mul_(gain_D).addcmul_(x_RD, x_coefficient_R1)
    grad_gain_D = torch.mv(product_RD.mT, inverse_R1[:, 0].to(product_RD.dtype))
    return (grad_x_RD if grad_residual_RD is None else grad_x_RD.add_(grad_residual_RD)), grad_gain_D


def split_heads(
    qkv_RG: Tensor, gain_2E: Tensor, cos_sin: tuple[Tensor, Tensor], epsilon: float, layout: HeadLayout
) -> tuple[Tensor, Tensor]:
    """Splits rows into heads: queries, keys and values, (3, N, T, E). Queries and keys are normalized and rotated,
    queries also divided by sqrt(E). And 1 / rms of these two, (2, B, T, H)."""
    qkv_BT3HE = qkv_RG.view(layout.windows, layout.length, 3, layout.heads, layout.size)
    qkv_3BHTE = qkv_BT3HE.permute(2, 0, 3, 1, 4).clone(memory_format=torch.contiguous_format)
    inverses = []
    for x_BHTE, gain_E, scale in zip(qkv_3BHTE, gain_2E, (1 / math.sqrt(layout.size), 1.0), strict=False):
        y, inverse = rms_norm(x_BHTE, gain_E * scale, epsilon, x_BHTE.dtype)
        x_BHTE.copy_(rotate(y, cos_sin, 1))
        inverses.append(inverse[..., 0].transpose(1, 2))
    return qkv_3BHTE.flatten(1, 2), torch.stack(inverses)


def split_heads_backward(
    grad_qkv_3NTE: Tensor,
    qkv_RG: Tensor,
    gain_2E: Tensor,
    inverse_2BTH: Tensor,
    cos_sin: tuple[Tensor, Tensor],
    layout: HeadLayout,
) -> tuple[Tensor, Tensor]:
    """The gradients of the rows, (R, G), and of the two gains."""
    grad_3BHTE = grad_qkv_3NTE.view(3, layout.windows, layout.heads, layout.length, layout.size)
    qkv_BT3HE = qkv_RG.view(layout.windows, layout.length, 3, layout.heads, layout.size)
    parts, grad_gains = [], []
    for index, scale in enumerate((1 / math.sqrt(layout.size), 1.0)):
        grad_y = rotate(grad_3BHTE[index], cos_sin, -1).mul_(scale).transpose(1, 2).reshape(-1, layout.size)
        x = qkv_BT3HE[:, :, index].reshape(-1, layout.size)
        grad_x, grad_gain_E = rms_norm_backward(grad_y, x, gain_2E[index], inverse_2BTH[index].reshape(-1, 1), None)
        parts.append(grad_x.view(len(qkv_RG), -1).to(qkv_RG.dtype))
        grad_gains.append(grad_gain_E)
    parts.append(grad_3BHTE[2].transpose(1, 2).reshape(len(qkv_RG), -1))
    return torch.cat(parts, -1), torch.stack(grad_gains)


def rotate(x: Tensor, cos_sin: tuple[Tensor, Tensor], sense: int) -> Tensor:
    """Rotary embedding: rotates pairs, half a head apart, by the angles of `cos_sin`; back if `sense` is -1."""
    half = x.shape[-1] // 2
    cos, sin = (table_TE[:, :half] for table_TE in cos_sin)
    y = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, cos.dtype))
    (x_low, x_high), (y_low, y_high) = x.chunk(2, -1), y.chunk(2, -1)
    torch.mul(x_low, cos, out=y_low).addcmul_(x_high, sin, value=-sense)
    torch.mul(x_high, cos, out=y_high).addcmul_(x_low, sin, value=sense)
    return y


def causal_softmax(score_NQS: Tensor, begin: int) -> None:
    """Causal softmax in place: query i attends to the first begin + i + 1 characters."""
    Q = score_NQS.shape[1]
    score_NQS[:, :, begin:].add_(torch.full((Q, Q), -math.inf, dtype=score_NQS.dtype).triu_(1))
    score_NQS.copy_(score_NQS.softmax(-1))


def causal_softmax_backward(grad_NQS: Tensor, weight_NQS: Tensor, begin: int) -> None:
    """In place: the gradient of attention weights becomes that of attention scores."""
    grad_NQS.copy_(torch.ops.aten._softmax_backward_data(grad_NQS, weight_NQS, -1, weight_NQS.dtype))


def swiglu(gate_up_RG: Tensor) -> Tensor:
    """SwiGLU (Shazeer 2020) without its matrix products: silu(first half) * second half."""
    gate_RF, up_RF = gate_up_RG.chunk(2, -1)
    return torch.nn.functional.silu(gate_RF).mul_(up_RF)


def swiglu_backward(grad_hidden_RF: Tensor, gate_up_RG: Tensor) -> Tensor:
    """The gradients of both halves, concatenated."""
    gate_RF, up_RF = gate_up_RG.chunk(2, -1)
    grad_gate_up_RG = torch.empty_like(gate_up_RG)
    grad_gate_RF, grad_up_RF = grad_gate_up_RG.chunk(2, -1)
    torch.mul(grad_hidden_RF, torch.nn.functional.silu(gate_RF), out=grad_up_RF)
    torch.ops.aten.silu_backward.grad_input(grad_hidden_RF * up_RF, gate_RF, grad_input=grad_gate_RF)
    return grad_gate_up_RG
