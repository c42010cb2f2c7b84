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

ROWS = 1024  # at once: their logits stay in a processor's cache


class LinearCrossEntropy(torch.autograd.Function):
    """Sums of losses (K,), from hidden_RD, targets_RK, the weights that the losses will get, one matrix of all
    classifiers' rows, and all their biases."""

    @staticmethod
    def forward(
        ctx: Any, hidden_RD: Tensor, targets_RK: Tensor, weights_K: Tensor, matrix_WD: Tensor, bias_W: Tensor | None
    ) -> Tensor:
        R, K = targets_RK.shape
        V = len(matrix_WD) // K
        wide = torch.promote_types(hidden_RD.dtype, torch.float32)  # of sums over rows, whatever products are in
        of_hidden, of_matrix = torch.empty_like(hidden_RD), torch.zeros_like(matrix_WD, dtype=wide)
        of_bias = None if bias_W is None else torch.zeros_like(bias_W, dtype=wide)
        losses_K = hidden_RD.new_zeros(K, dtype=wide)
        for begin in range(0, R, ROWS):
            rows = slice(begin, begin + ROWS)
            logits_RW = torch.nn.functional.linear(hidden_RD[rows], matrix_WD, bias_W)
            logs_RKV = logits_RW.view(-1, K, V).to(losses_K.dtype).log_softmax(-1)
            index_RK1 = targets_RK[rows, :, None]
            losses_K -= logs_RKV.gather(-1, index_RK1).sum((0, 2))
            slope_RKV = logs_RKV.exp_().scatter_add_(-1, index_RK1, -torch.ones_like(index_RK1, dtype=logs_RKV.dtype))
            slope_RW = slope_RKV.mul_(weights_K[:, None]).view(-1, K * V).to(hidden_RD.dtype)
            torch.mm(slope_RW, matrix_WD, out=of_hidden[rows])
            if slope_RW.dtype == wide:
                of_matrix.addmm_(slope_RW.mT, hidden_RD[rows])
            else:
                of_matrix += slope_RW.mT @ hidden_RD[rows]
            if of_bias is not None:
                of_bias += slope_RW.sum(0)
        of_bias = None if bias_W is None or of_bias is None else of_bias.to(bias_W.dtype)
        of_matrix = of_matrix.to(matrix_WD.dtype)
        ctx.save_for_backward(weights_K, of_hidden, of_matrix, *([] if of_bias is None else [of_bias]))
        return losses_K

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient_K: Tensor
    ) -> tuple[Tensor, None, None, Tensor, Tensor | None]:
        weights_K, of_hidden, of_matrix, *of_bias = ctx.saved_tensors
        factor = gradient_K[0] / weights_K[0]
        if gradient_K.device.type == "cpu" and not torch.allclose(gradient_K, factor * weights_K, rtol=1e-5, atol=0):
            raise AuxiliaryError(
                "the losses of linear_cross_entropy were weighed otherwise than `weights` said when they were computed"
            )
        factor = factor.to(of_hidden.dtype)
        return factor * of_hidden, None, None, factor * of_matrix, factor * of_bias[0] if of_bias else None


def linear_cross_entropy(
    hidden: Tensor,
    classifiers: Sequence[torch.nn.Linear],
    targets: Sequence[Tensor],
    weights: Sequence[float],
) -> tuple[Tensor, ...]:
    """The summed cross-entropy, in nats, of each linear classifier of `hidden` (..., D), for its own targets (...).

    weights: what the losses will be multiplied by, up to one factor for all: their gradients are added up with them
    here, and a backward pass that weighs them otherwise raises AuxiliaryError (where the device is a CPU).
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
        hidden, matrix = hidden.to(lower), matrix.to(lower)
        bias = None if bias is None else bias.to(lower)
    with torch.autocast(hidden.device.type, enabled=False):
        losses_K = LinearCrossEntropy.apply(
            hidden.flatten(0, -2),
            torch.stack([target.flatten() for target in targets], -1),
            torch.tensor(weights, dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device),
            matrix,
            bias,
        )
    return losses_K.unbind()
