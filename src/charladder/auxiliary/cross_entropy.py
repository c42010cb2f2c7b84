"""Linear classifiers and their cross-entropies in one operation that never holds all logits.

The gradient is computed with the loss, some rows at a time, so that the tensors kept for the backward pass are as large
as the hidden state and the classifiers, for any number of classes and classifiers.

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
FLOAT32_SUBNORMAL_STEP = 2e-45  # rounding error of the smallest numbers of float32
CPU_ROWS_PER_CHUNK = 1024  # the logits of a chunk fit the cache of a processor
LOGIT_BYTES_PER_CHUNK = 64 << 20  # on other devices, where each launch costs more than memory does


class CrossEntropyOperations(Protocol):
    """The operations other than matrix products, which may have faster implementations. Rows are contiguous, and there
    is at least one."""

    def normalize(self, x_RD: Tensor, matmul_dtype: torch.dtype) -> tuple[Tensor, Sequence[Tensor]]:
        """Rows with mean 0 and variance 1, in the dtype of matrix products, and moments for `normalize_backward`."""
        ...

    def normalize_backward(self, grad_y_RD: Tensor, x_RD: Tensor, moments: Sequence[Tensor]) -> Tensor:
        """The gradient of the rows, in the dtype of matrix products."""
        ...

    def losses_and_gradient(self, logits_RW: Tensor, targets_RK: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the weighted losses by the logits, in their dtype, which may overwrite them; and the sum of
        each classifier's losses, (K,), in the dtype of the weights. A target of IGNORE_INDEX has no loss and no
        gradient."""
        ...


class TorchOperations:
    """With torch, for any device and dtype."""

    def normalize(self, x_RD: Tensor, matmul_dtype: torch.dtype) -> tuple[Tensor, Sequence[Tensor]]:
        y_RD, *moments = torch.native_layer_norm(x_RD, x_RD.shape[1:], None, None, LAYER_NORM_EPSILON)
        return y_RD.to(matmul_dtype), moments

    def normalize_backward(self, grad_y_RD: Tensor, x_RD: Tensor, moments: Sequence[Tensor]) -> Tensor:
        grad_x_RD = torch.ops.aten.native_layer_norm_backward(
            grad_y_RD.to(x_RD.dtype), x_RD, x_RD.shape[1:], *moments, None, None, [True, False, False]
        )[0]
        return grad_x_RD.to(grad_y_RD.dtype)

    def losses_and_gradient(self, logits_RW: Tensor, targets_RK: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
        logs_RKV = logits_RW.view(*targets_RK.shape, -1).to(weights_K.dtype).log_softmax(-1)
        may_ignore = True  # on a CPU, reading whether a target is ignored does not wait for a device
        if targets_RK.device.type == "cpu" and not torch.compiler.is_compiling():
            may_ignore = check_targets(targets_RK, logs_RKV.shape[-1])
        ignored_RK1 = (targets_RK == IGNORE_INDEX)[..., None]
        index_RK1 = targets_RK[..., None].masked_fill(ignored_RK1, 0)
        # Filled, not multiplied by 0: logits of an ignored row may be NaN.
        losses_K = -logs_RKV.gather(-1, index_RK1).masked_fill_(ignored_RK1, 0).sum((0, 2))
        gradient_RKV = logs_RKV.exp_().scatter_add_(-1, index_RK1, -torch.ones_like(index_RK1, dtype=logs_RKV.dtype))
        gradient_RKV.mul_(weights_K[:, None])
        if may_ignore:
            gradient_RKV.masked_fill_(ignored_RK1, 0)
        return gradient_RKV.view(logits_RW.shape).to(logits_RW.dtype), losses_K


def check_targets(targets: Tensor, classes: int) -> bool:
    """Whether some targets are IGNORE_INDEX. Waits for the device.

    Raises AuxiliaryError for a target that is neither a class nor IGNORE_INDEX.
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
    """Sums of losses (K,), from hidden_RD, targets_RK, the weights of the losses, and the matrices (V, D) of all
    classifiers, then their biases, if they have any. normed: whether hidden_RD is normalised first."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        targets_RK: Tensor,
        weights_K: Tensor,
        normed: bool,
        operations: CrossEntropyOperations,
        matmul_dtype: torch.dtype,
        *parameters: Tensor,
    ) -> Tensor:
        (R, K), hidden_RD = targets_RK.shape, hidden_RD.contiguous()
        sum_dtype = weights_K.dtype  # of sums over rows
        matrix_WD = _concatenate(parameters[:K], matmul_dtype)
        bias_W = _concatenate(parameters[K:], matmul_dtype) if parameters[K:] else None
        grad_hidden = torch.empty_like(hidden_RD, dtype=matmul_dtype)
        grad_matrix = None
        grad_bias = None if bias_W is None else torch.zeros_like(bias_W, dtype=sum_dtype)
        losses_K = torch.zeros_like(weights_K)
        chunk = _rows_per_chunk(hidden_RD.device, len(matrix_WD) * sum_dtype.itemsize)
        for begin in range(0, R, chunk):
            rows = slice(begin, begin + chunk)
            moments: Sequence[Tensor] = ()
            if normed:
                read_RD, moments = operations.normalize(hidden_RD[rows], matmul_dtype)
            else:
                read_RD = hidden_RD[rows].to(matmul_dtype)
            logits_RW = torch.nn.functional.linear(read_RD, matrix_WD, bias_W)
            grad_logits_RW, sums_K = operations.losses_and_gradient(logits_RW, targets_RK[rows], weights_K)
            losses_K += sums_K
            if normed:
                grad_hidden[rows] = operations.normalize_backward(grad_logits_RW @ matrix_WD, hidden_RD[rows], moments)
            else:
                torch.mm(grad_logits_RW, matrix_WD, out=grad_hidden[rows])
            if grad_matrix is None:
                grad_matrix = (grad_logits_RW.mT @ read_RD).to(sum_dtype if chunk < R else matmul_dtype)
            elif matmul_dtype == sum_dtype:
                grad_matrix.addmm_(grad_logits_RW.mT, read_RD)
            else:
                grad_matrix += grad_logits_RW.mT @ read_RD
            if grad_bias is not None:
                grad_bias += grad_logits_RW.sum(0)
        grad_matrix = torch.zeros_like(matrix_WD) if grad_matrix is None else grad_matrix.to(matmul_dtype)
        ctx.hidden_dtype, ctx.parameter_dtypes = hidden_RD.dtype, [parameter.dtype for parameter in parameters]
        ctx.save_for_backward(
            weights_K, grad_hidden, grad_matrix, *([] if grad_bias is None else [grad_bias.to(matmul_dtype)])
        )
        return losses_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_K: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        weights_K, grad_hidden, grad_matrix, *grad_bias = ctx.saved_tensors
        factor = gradient_K[0] / weights_K[0]
        if gradient_K.device.type == "cpu" and not _proportional(gradient_K.tolist(), weights_K.tolist()):
            raise AuxiliaryError(
                "the losses of linear_cross_entropy have other weights in the backward pass than in its `weights`"
            )
        parts = [part for joint in (grad_matrix, *grad_bias) for part in joint.chunk(len(weights_K))]
        grad_parameters = [_scale(part, factor, dtype) for part, dtype in zip(parts, ctx.parameter_dtypes, strict=True)]
        return _scale(grad_hidden, factor, ctx.hidden_dtype), None, None, None, None, None, *grad_parameters


def _rows_per_chunk(device: torch.device, row_bytes: int) -> int:
    return CPU_ROWS_PER_CHUNK if device.type == "cpu" else max(CPU_ROWS_PER_CHUNK, LOGIT_BYTES_PER_CHUNK // row_bytes)


def _concatenate(parameters: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The parameters concatenated along their first dimension, in `dtype`."""
    rows = [len(parameter) for parameter in parameters]
    joint = parameters[0].new_empty(sum(rows), *parameters[0].shape[1:], dtype=dtype)
    for part, parameter in zip(torch.split(joint, rows), parameters, strict=True):
        part.copy_(parameter)
    return joint


def _weights_on(weights: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """The weights as a tensor; on a GPU without a copy from the host, which a CUDA graph cannot capture."""
    if device.type != "cuda":
        return torch.tensor(weights, dtype=dtype, device=device)
    weights_K = torch.empty(len(weights), dtype=dtype, device=device)
    for one, weight in zip(weights_K, weights, strict=True):
        one.fill_(weight)
    return weights_K


def _scale(gradient: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """A new tensor, because autograd may keep it as the `.grad` of a parameter."""
    if gradient.is_cuda and gradient.dtype != dtype:  # converted and multiplied in one launch
        return gradient * factor.to(dtype).view(1)
    return torch.mul(gradient, factor) if gradient.dtype == dtype else gradient.to(dtype).mul_(factor)


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
    F.cross_entropy, and must not be in the count that the sum is divided by.
    weights: the factors of the losses in the total, up to one factor for all. The gradients are summed with them here,
    and a backward pass with other weights raises AuxiliaryError (if the device is a CPU).
    normed: normalises the hidden state to mean 0 and variance 1 over D first, as F.layer_norm without parameters does.
    The normalised state is not kept.
    operations: an implementation of the operations other than matrix products.
    Memory: one hidden state and one copy of the classifiers; the logits of one chunk of rows.
    Raises AuxiliaryError for classifiers that differ in size, for a weight of zero (leave such a loss out), and, if
    the device is a CPU, for a target that is no class.

    >>> hidden, target = torch.randn(5, 8, requires_grad=True), torch.tensor([0, 2, 1, 1, -100])
    >>> classifier = torch.nn.Linear(8, 3)
    >>> (total,) = linear_cross_entropy(hidden, [classifier], [target], weights=[0.5])
    >>> expected = torch.nn.functional.cross_entropy(classifier(hidden), target, reduction="sum")
    >>> bool(torch.isclose(total, expected))
    True
    >>> (0.5 * total / 4).backward()
    """
    if any(weight == 0 for weight in weights):
        raise AuxiliaryError("linear_cross_entropy got a weight of 0; leave that loss out")
    matrices = [classifier.weight for classifier in classifiers]
    biases = [classifier.bias for classifier in classifiers if _has_bias(classifier)]
    if len({matrix.shape for matrix in matrices}) != 1 or len(biases) not in (0, len(matrices)):
        raise AuxiliaryError(
            "linear_cross_entropy needs classifiers that are all of one size, all with bias or without"
        )
    matmul_dtype = matrices[0].dtype
    if torch.is_autocast_enabled(hidden.device.type):
        matmul_dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden = hidden if normed else hidden.to(matmul_dtype)
    function: Any = LinearCrossEntropy
    with torch.autocast(hidden.device.type, enabled=False):
        losses_K = function.apply(
            hidden.flatten(0, -2),
            torch.stack([target.flatten() for target in targets], -1),
            _weights_on(weights, torch.promote_types(hidden.dtype, torch.float32), hidden.device),
            normed,
            operations,
            matmul_dtype,
            *matrices,
            *biases,
        )
    return losses_K.unbind()


def _has_bias(classifier: Any) -> bool:
    return classifier.bias is not None
