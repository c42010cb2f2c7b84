"""Causal attention of a training step on a CPU, and its gradient.

It computes blocks of queries with torch's batched matrix products, so that most scores above the diagonal are not
computed, and uses the causal softmax of the given operations (reference.py or native.py). The attention weights are
saved for the backward pass; torch's own kernel recomputes them, which takes 1.5 times as long for heads of 64 and
windows of 512. Where a processor has AVX512-BF16 and no AMX, whole heads are computed in C (csrc/training/attention.c),
which saves no weights.

Shapes: as in reference.py; R = B T rows, D = H E.
"""

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from charladder.kernels import native
from charladder.kernels.reference import HeadLayout

QUERY_BLOCK = 256  # queries of a block, few enough that most scores above the diagonal are not computed
MAX_SCORES = 1 << 21  # attention scores of a block, so that they fit the last-level cache


def attention(ops: ModuleType, qkv_3NTE: Tensor, layout: HeadLayout) -> tuple[Tensor, list[Tensor]]:
    """Attention with scaled queries, (R, D), and the tensors to save for the backward pass."""
    if ops is native and native.has_attention(qkv_3NTE):
        y_RD, log_sum_exp_NT = native.attention(qkv_3NTE, layout)
        return y_RD, [log_sum_exp_NT]
    q_NTE, k_NTE, v_NTE = qkv_3NTE
    y_NTE, weights = torch.empty_like(v_NTE), []
    for part, begin, end in blocks(*q_NTE.shape[:2]):
        w_NQS = torch.bmm(q_NTE[part, begin:end], k_NTE[part, :end].mT)
        ops.causal_softmax(w_NQS, begin)
        y_NTE[part, begin:end] = torch.bmm(w_NQS, v_NTE[part, :end])
        weights.append(w_NQS)
    return merge_heads(y_NTE, layout), weights


def attention_backward(
    ops: ModuleType, grad_y_RD: Tensor, qkv_3NTE: Tensor, y_RD: Tensor, saved: list[Tensor], layout: HeadLayout
) -> Tensor:
    """The gradient of scaled queries, keys and values."""
    is_native = saved[0].ndim == 2  # native.attention saves log-sum-exps (N, T), not attention weights (N, Q, S)
    if is_native:
        return native.attention_backward(grad_y_RD, qkv_3NTE, y_RD, saved[0], layout)
    q_NTE, k_NTE, v_NTE = qkv_3NTE
    grad_y_NTE = split_rows(grad_y_RD, layout)
    grad_q, grad_k, grad_v = grad_qkv_3NTE = torch.zeros_like(qkv_3NTE)
    for (part, begin, end), w_NQS in zip(blocks(*q_NTE.shape[:2]), saved, strict=True):
        g_NQE = grad_y_NTE[part, begin:end]
        grad_v[part, :end].baddbmm_(w_NQS.mT, g_NQE)
        grad_w_NQS = torch.bmm(g_NQE, v_NTE[part, :end].mT)
        ops.causal_softmax_backward(grad_w_NQS, w_NQS, begin)
        grad_q[part, begin:end] = torch.bmm(grad_w_NQS, k_NTE[part, :end])
        grad_k[part, :end].baddbmm_(grad_w_NQS.mT, q_NTE[part, begin:end])
    return grad_qkv_3NTE


def merge_heads(y_NTE: Tensor, layout: HeadLayout) -> Tensor:
    """(N, T, E) as rows, (B T, H E)."""
    B, T, H, E = layout
    return y_NTE.view(B, H, T, E).transpose(1, 2).reshape(B * T, H * E)


def split_rows(y_RD: Tensor, layout: HeadLayout) -> Tensor:
    """(B T, H E) as heads, (N, T, E)."""
    B, T, H, E = layout
    return y_RD.view(B, T, H, E).transpose(1, 2).reshape(B * H, T, E)


def blocks(heads: int, length: int) -> Iterator[tuple[slice, int, int]]:
    """The blocks: a slice of heads, the first query and the one after the last."""
    group = max(1, MAX_SCORES // (min(QUERY_BLOCK, length) * length))
    for first in range(0, heads, group):
        for begin in range(0, length, QUERY_BLOCK):
            yield slice(first, first + group), begin, min(begin + QUERY_BLOCK, length)
