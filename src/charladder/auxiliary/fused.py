"""Classifiers and their cross-entropies in one step that never holds all logits.

The gradient is computed with the loss, a few rows at a time, so that what stays for the backward pass is as large as
the hidden state and the classifiers, however many there are.

Shapes: R rows (predictions), D features, K classifiers, V classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charladder.auxiliary.errors import AuxiliaryError

EPSILON = 1e-5  # F.layer_norm's
ROWS = 1024  # at once: their logits stay in a processor's cache


class LinearCrossEntropy(torch.autograd.Function):
    """Sums of losses (K,), from hidden_RD (normed first, where asked for), targets_RK, the weights that the losses will
    get, one matrix of all classifiers' rows in the type of products, and all their biases."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        targets_RK: Tensor,
        weights_K: Tensor,
        matrix_WD: Tensor,
        bias_W: Tensor | None,
        normed: bool,
    ) -> Tensor:
        (R, K), D = targets_RK.shape, hidden_RD.shape[1:]
        V = len(matrix_WD) // K
        products, wide = matrix_WD.dtype, torch.promote_types(hidden_RD.dtype, torch.float32)  # of sums over rows
        of_hidden = torch.empty_like(hidden_RD, dtype=products)
        of_matrix = torch.zeros_like(matrix_WD, dtype=wide)
        of_bias = None if bias_W is None else torch.zeros_like(bias_W, dtype=wide)
        losses_K = hidden_RD.new_zeros(K, dtype=wide)
        for begin in range(0, R, ROWS):
            rows = slice(begin, begin + ROWS)
            read_RD, *moments = hidden_RD[rows], None, None
            if normed:
                read_RD, *moments = torch.native_layer_norm(hidden_RD[rows], D, None, None, EPSILON)
            read_RD = read_RD.to(products)
            logits_RW = torch.nn.functional.linear(read_RD, matrix_WD, bias_W)
            logs_RKV = logits_RW.view(-1, K, V).to(losses_K.dtype).log_softmax(-1)
            index_RK1 = targets_RK[rows, :, None]
            losses_K -= logs_RKV.gather(-1, index_RK1).sum((0, 2))
            slope_RKV = logs_RKV.exp_().scatter_add_(-1, index_RK1, -torch.ones_like(index_RK1, dtype=logs_RKV.dtype))
            slope_RW = slope_RKV.mul_(weights_K[:, None]).view(-1, K * V).to(products)
            if normed:
                of_read_RD = (slope_RW @ matrix_WD).to(hidden_RD.dtype)
                of_hidden[rows] = torch.ops.aten.native_layer_norm_backward(
                    of_read_RD, hidden_RD[rows], D, *moments, None, None, [True, False, False]
                )[0]
            else:
                torch.mm(slope_RW, matrix_WD, out=of_hidden[rows])
            if products == wide:
                of_matrix.addmm_(slope_RW.mT, read_RD)
            else:
                of_matrix += slope_RW.mT @ read_RD
            if of_bias is not None:
                of_bias += slope_RW.sum(0)
        of_bias = None if bias_W is None or of_bias is None else of_bias.to(bias_W.dtype)
        of_matrix = of_matrix.to(matrix_WD.dtype)
        ctx.exact = hidden_RD.dtype
        ctx.save_for_backward(weights_K, of_hidden, of_matrix, *([] if of_bias is None else [of_bias]))
        return losses_K

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_K: Tensor
    ) -> tuple[Tensor, None, None, Tensor, Tensor | None, None]:
        weights_K, of_hidden, of_matrix, *of_bias = ctx.saved_tensors
        factor = gradient_K[0] / weights_K[0]
        if gradient_K.device.type == "cpu" and not torch.allclose(gradient_K, factor * weights_K, rtol=1e-5, atol=0):
            raise AuxiliaryError(
                "the losses of linear_cross_entropy were weighed otherwise than `weights` said when they were computed"
            )
        factor = factor.to(of_hidden.dtype)
        of_exact = (factor * of_hidden).to(ctx.exact)
        return of_exact, None, None, factor * of_matrix, factor * of_bias[0] if of_bias else None, None


def linear_cross_entropy(
    hidden: Tensor,
    classifiers: Sequence[torch.nn.Linear],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    normed: bool = False,
) -> tuple[Tensor, ...]:
    """The summed cross-entropy, in nats, of each linear classifier of `hidden` (..., D), for its own targets (...).

    weights: what the losses will be multiplied by, up to one factor for all: their gradients are added up with them
    here, and a backward pass that weighs them otherwise raises AuxiliaryError (where the device is a CPU).
    normed: the classifiers read the hidden state brought to mean 0 and variance 1 over D first, as F.layer_norm without
    parameters does; then the state itself need not be kept.
    Memory: one hidden state and one copy of the classifiers; the logits of ROWS predictions at a time.
    Raises AuxiliaryError for classifiers that differ in size, and for a weight of zero: leave such a loss out.
    """
    if any(weight == 0 for weight in weights):
        raise AuxiliaryError("linear_cross_entropy got a weight of 0; leave that loss out")
    if len({(one.weight.shape, one.bias is None) for one in classifiers}) != 1:
        raise AuxiliaryError(
            "linear_cross_entropy needs classifiers that are all of one size, all with bias or without"
        )
    matrix = torch.cat([one.weight for one in classifiers])
    bias = torch.cat([one.bias for one in classifiers]) if classifiers[0].bias is not None else None
    if torch.is_autocast_enabled(hidden.device.type):
        lower = torch.get_autocast_dtype(hidden.device.type)
        matrix = matrix.to(lower)
        hidden = hidden if normed else hidden.to(lower)
        bias = None if bias is None else bias.to(lower)
    with torch.autocast(hidden.device.type, enabled=False):
        losses_K = LinearCrossEntropy.apply(
            hidden.flatten(0, -2),
            torch.stack([target.flatten() for target in targets], -1),
            torch.tensor(weights, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device),
            matrix,
            bias,
            normed,
        )
    return losses_K.unbind()
