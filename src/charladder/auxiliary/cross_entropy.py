"""Classifiers and their cross-entropies in one step that never holds all logits.

The gradient is computed with the loss, a few rows at a time, so that what stays for the backward pass is as large as
the hidden state and the classifiers, however many there are.

Shapes: R rows (predictions), D features, K classifiers, V classes, W = K V.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from charladder.auxiliary._counts import IGNORE_INDEX
from charladder.auxiliary._errors import AuxiliaryError

LAYER_NORM_EPSILON = 1e-5  # F.layer_norm's
FLOAT32_SUBNORMAL_STEP = 2e-45  # numbers of float32 below its smallest are rounded to it, or to 0
CPU_ROWS_PER_CHUNK = 1024  # at once: their logits stay in a processor's cache
LOGIT_BYTES_PER_CHUNK = 64 << 20  # on other devices, where each launch costs more than memory does


class CrossEntropyOperations(Protocol):
    """What lies between the products, so that others may compute it in fewer passes over memory. Rows are contiguous,
    and at least one."""

    def normalize(self, x_RD: Tensor, products: torch.dtype) -> tuple[Tensor, Sequence[Tensor]]:
        """Rows brought to mean 0 and variance 1, in the type of products, and what `normalize_backward` needs
        of them."""
        ...

    def normalize_backward(self, of_y_RD: Tensor, x_RD: Tensor, moments: Sequence[Tensor]) -> Tensor:
        """The gradient of the rows, in the type of products."""
        ...

    def losses_and_gradient(self, logits_RW: Tensor, targets_RK: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the weighed losses by the logits, which may be overwritten, in their type; and the sum of
        each classifier's losses, (K,), in that of the weights. A target of IGNORED has no loss and no gradient."""
        ...


class TorchOperations:
    """With torch, for any device and type."""

    def normalize(self, x_RD: Tensor, products: torch.dtype) -> tuple[Tensor, Sequence[Tensor]]:
        y_RD, *moments = torch.native_layer_norm(x_RD, x_RD.shape[1:], None, None, LAYER_NORM_EPSILON)
        return y_RD.to(products), moments

    def normalize_backward(self, of_y_RD: Tensor, x_RD: Tensor, moments: Sequence[Tensor]) -> Tensor:
        of_x_RD = torch.ops.aten.native_layer_norm_backward(
            of_y_RD.to(x_RD.dtype), x_RD, x_RD.shape[1:], *moments, None, None, [True, False, False]
        )[0]
        return of_x_RD.to(of_y_RD.dtype)

    def losses_and_gradient(self, logits_RW: Tensor, targets_RK: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
        logs_RKV = logits_RW.view(*targets_RK.shape, -1).to(weights_K.dtype).log_softmax(-1)
        ignores = True  # unless it is known without waiting for the device that no target is ignored
        if targets_RK.device.type == "cpu" and not torch.compiler.is_compiling():
            ignores = check_targets(targets_RK, logs_RKV.shape[-1])
        ignored_RK1 = (targets_RK == IGNORE_INDEX)[..., None]
        index_RK1 = targets_RK[..., None].masked_fill(ignored_RK1, 0)
        # Filled, not multiplied by 0: logits of an ignored row may be NaN.
        losses_K = -logs_RKV.gather(-1, index_RK1).masked_fill_(ignored_RK1, 0).sum((0, 2))
        slope_RKV = logs_RKV.exp_().scatter_add_(-1, index_RK1, -torch.ones_like(index_RK1, dtype=logs_RKV.dtype))
        slope_RKV.mul_(weights_K[:, None])
        if ignores:
            slope_RKV.masked_fill_(ignored_RK1, 0)
        return slope_RKV.view(logits_RW.shape).to(logits_RW.dtype), losses_K


def check_targets(targets: Tensor, classes: int) -> bool:
    """Whether some targets are IGNORED. Waits for the device.

    Raises AuxiliaryError for a target that is neither a class nor IGNORED.
    """
    low, high = map(int, targets.aminmax())
    if low >= 0 and high < classes:
        return False
    wrong = targets[((targets < 0) | (targets >= classes)) & (targets != IGNORE_INDEX)]
    if len(wrong):
        raise AuxiliaryError(
            f"linear_cross_entropy got the target {int(wrong[0])}; targets are classes from 0 to {classes - 1}, or "
            f"{IGNORE_INDEX} where there is nothing to predict"
        )
    return True


TORCH_OPERATIONS = TorchOperations()


class LinearCrossEntropy(torch.autograd.Function):
    """Sums of losses (K,), from hidden_RD (normed first, where asked for), targets_RK, the weights that the losses will
    get, and the matrices (V, D) of all classifiers, then their biases, if they have any. `products`: their type."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        targets_RK: Tensor,
        weights_K: Tensor,
        normed: bool,
        steps: CrossEntropyOperations,
        products: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        (R, K), hidden_RD = targets_RK.shape, hidden_RD.contiguous()
        wide = weights_K.dtype  # of sums over rows
        matrix_WD = _concatenate(parameters[:K], products)
        bias_W = _concatenate(parameters[K:], products) if parameters[K:] else None
        of_hidden = torch.empty_like(hidden_RD, dtype=products)
        of_matrix = None
        of_bias = None if bias_W is None else torch.zeros_like(bias_W, dtype=wide)
        losses_K = torch.zeros_like(weights_K)
        together = _rows_at_once(hidden_RD.device, len(matrix_WD) * wide.itemsize)
        for begin in range(0, R, together):
            rows = slice(begin, begin + together)
            read_RD, moments = hidden_RD[rows], ()
            if normed:
                read_RD, moments = steps.normalize(read_RD, products)
            else:
                read_RD = read_RD.to(products)
            logits_RW = torch.nn.functional.linear(read_RD, matrix_WD, bias_W)
            slope_RW, found_K = steps.losses_and_gradient(logits_RW, targets_RK[rows], weights_K)
            losses_K += found_K
            if normed:
                of_hidden[rows] = steps.normalize_backward(slope_RW @ matrix_WD, hidden_RD[rows], moments)
            else:
                torch.mm(slope_RW, matrix_WD, out=of_hidden[rows])
            if of_matrix is None:
                of_matrix = (slope_RW.mT @ read_RD).to(wide if together < R else products)
            elif products == wide:
                of_matrix.addmm_(slope_RW.mT, read_RD)
            else:
                of_matrix += slope_RW.mT @ read_RD
            if of_bias is not None:
                of_bias += slope_RW.sum(0)
        of_matrix = torch.zeros_like(matrix_WD) if of_matrix is None else of_matrix.to(products)
        ctx.exact, ctx.exact_too = hidden_RD.dtype, [parameter.dtype for parameter in parameters]
        ctx.save_for_backward(weights_K, of_hidden, of_matrix, *([] if of_bias is None else [of_bias.to(products)]))
        return losses_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_K: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights_K, of_hidden, of_matrix, *of_bias = ctx.saved_tensors
        factor = gradient_K[0] / weights_K[0]
        if gradient_K.device.type == "cpu" and not _proportional(gradient_K.tolist(), weights_K.tolist()):
            raise AuxiliaryError(
                "the losses of linear_cross_entropy were weighed otherwise than `weights` said when they were computed"
            )
        parts = [part for whole in (of_matrix, *of_bias) for part in whole.chunk(len(weights_K))]
        of_parameters = [_scale(part, factor, exact) for part, exact in zip(parts, ctx.exact_too, strict=True)]
        return _scale(of_hidden, factor, ctx.exact), None, None, None, None, None, *of_parameters


def _rows_at_once(device: torch.device, row_bytes: int) -> int:
    return CPU_ROWS_PER_CHUNK if device.type == "cpu" else max(CPU_ROWS_PER_CHUNK, LOGIT_BYTES_PER_CHUNK // row_bytes)


def _concatenate(parameters: Sequence[Tensor], products: torch.dtype) -> Tensor:
    """One tensor of all of them, in the type of products."""
    rows = [len(parameter) for parameter in parameters]
    whole = parameters[0].new_empty(sum(rows), *parameters[0].shape[1:], dtype=products)
    for part, parameter in zip(whole.split(rows), parameters, strict=True):
        part.copy_(parameter)
    return whole


def _place_weights(weights: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """On a GPU without a copy from here, which a CUDA graph could not hold."""
    if device.type != "cuda":
        return torch.tensor(weights, dtype=dtype, device=device)
    found_K = torch.empty(len(weights), dtype=dtype, device=device)
    for one, weight in zip(found_K, weights, strict=True):
        one.fill_(weight)
    return found_K


def _scale(gradient: Tensor, factor: Tensor, exact: torch.dtype) -> Tensor:
    """A new tensor, which whoever collects gradients may keep as it is."""
    if gradient.is_cuda and gradient.dtype != exact:  # converted and multiplied in one launch
        return gradient * factor.to(exact).view(1)
    return torch.mul(gradient, factor) if gradient.dtype == exact else gradient.to(exact).mul_(factor)


def _proportional(gradient: list[float], weights: list[float]) -> bool:
    """Whether each is the same multiple of its weight, within rounding of float32. NaN is not."""
    factor = gradient[0] / weights[0] if weights[0] else math.nan
    pairs = [(g, factor * w) for g, w in zip(gradient, weights, strict=True)]
    return all(g == e or abs(g - e) <= 1e-5 * abs(e) + FLOAT32_SUBNORMAL_STEP for g, e in pairs)


def linear_cross_entropy(
    hidden: Tensor,
    classifiers: Sequence[torch.nn.Linear],
    targets: Sequence[Tensor],
    weights: Sequence[float],
    normed: bool = False,
    operations: CrossEntropyOperations = TORCH_OPERATIONS,
) -> tuple[Tensor, ...]:
    """The summed cross-entropy, in nats, of each linear classifier of `hidden` (..., D), for its own targets (...).

    targets: classes, or -100 where a classifier has nothing to predict: that adds no loss and no gradient, as in
    F.cross_entropy, and does not belong in the count that the sum is divided by.
    weights: what the losses will be multiplied by, up to one factor for all: their gradients are added up with them
    here, and a backward pass that weighs them otherwise raises AuxiliaryError (where the device is a CPU).
    normed: the classifiers read the hidden state brought to mean 0 and variance 1 over D first, as F.layer_norm without
    parameters does; then the state itself need not be kept.
    steps: who computes what lies between the products; torch, unless told otherwise.
    Memory: one hidden state and one copy of the classifiers; the logits of ROWS predictions at a time, or LOGITS bytes
    of them where the device is no CPU.
    Raises AuxiliaryError for classifiers that differ in size, for a weight of zero (leave such a loss out), and, where
    the device is a CPU, for a target that is no class.
    """
    if any(weight == 0 for weight in weights):
        raise AuxiliaryError("linear_cross_entropy got a weight of 0; leave that loss out")
    if len({(one.weight.shape, one.bias is None) for one in classifiers}) != 1:
        raise AuxiliaryError(
            "linear_cross_entropy needs classifiers that are all of one size, all with bias or without"
        )
    matrices = [one.weight for one in classifiers]
    biases = [one.bias for one in classifiers if one.bias is not None]
    products = matrices[0].dtype
    if torch.is_autocast_enabled(hidden.device.type):
        products = torch.get_autocast_dtype(hidden.device.type)
        hidden = hidden if normed else hidden.to(products)
    with torch.autocast(hidden.device.type, enabled=False):
        losses_K = LinearCrossEntropy.apply(
            hidden.flatten(0, -2),
            torch.stack([target.flatten() for target in targets], -1),
            _place_weights(weights, torch.promote_types(hidden.dtype, torch.float32), hidden.device),
            normed,
            operations,
            products,
            *matrices,
            *biases,
        )
    return losses_K.unbind()
