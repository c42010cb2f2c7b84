"""Operations of auxiliary.linear_cross_entropy in C (kernels/csrc/training/cross_entropy.c), or compiled for a GPU.

They are the steps between the matrix products of a layer's classifiers.

Shapes: R rows (predictions), D width, K classifiers, V symbols, W = K V.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from charladder.auxiliary.cross_entropy import (
    IGNORE_INDEX,
    LAYER_NORM_EPSILON,
    TORCH_OPERATIONS,
    CrossEntropyOperations,
    check_targets,
)
from charladder.kernels import native
from charladder.kernels.build import LOSSES as SOURCES


def describe_operations() -> str:
    """The name of the operations used on this machine's CPU. Results of different ones differ in their last bits."""
    return native.describe(native.SOURCES, SOURCES)


def choose_operations(hidden: Tensor) -> CrossEntropyOperations:
    """The operations for a hidden state of this dtype and device, with products in autocast's dtype if enabled."""
    autocast = torch.is_autocast_enabled(hidden.device.type)
    matmul_dtype = torch.get_autocast_dtype(hidden.device.type) if autocast else hidden.dtype
    use_native = not torch.compiler.is_compiling() and native.supports(hidden, matmul_dtype, SOURCES)
    return NATIVE_OPERATIONS if use_native else TORCH_OPERATIONS


class NativeOperations:
    """cross_entropy.TorchOperations in C."""

    def normalize(self, x_RD: Tensor, matmul_dtype: torch.dtype) -> tuple[Tensor, Sequence[Tensor]]:
        R, D = x_RD.shape
        y_RD, mean_R, inverse_R = x_RD.new_empty(R, D, dtype=matmul_dtype), x_RD.new_empty(R), x_RD.new_empty(R)
        native.call(
            "layer_norm_forward", matmul_dtype, x_RD, LAYER_NORM_EPSILON, y_RD, mean_R, inverse_R, R, D, sources=SOURCES
        )
        return y_RD, (mean_R, inverse_R)

    def normalize_backward(self, grad_y_RD: Tensor, x_RD: Tensor, moments: Sequence[Tensor]) -> Tensor:
        grad_x_RD = torch.empty_like(grad_y_RD)
        native.call(
            "layer_norm_backward", grad_y_RD.dtype, grad_y_RD, x_RD, *moments, grad_x_RD, *x_RD.shape, sources=SOURCES
        )
        return grad_x_RD

    def losses_and_gradient(self, logits_RW: Tensor, targets_RK: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
        (R, K), V = targets_RK.shape, logits_RW.shape[1] // targets_RK.shape[1]
        check_targets(targets_RK, V)  # C uses them as indices without a check
        losses_RK = weights_K.new_empty(R, K)
        tensors = logits_RW, targets_RK, weights_K, losses_RK
        native.call("cross_entropy_gradient", logits_RW.dtype, *tensors, R, K, V, sources=SOURCES)
        return logits_RW, losses_RK.sum(0)


NATIVE_OPERATIONS = NativeOperations()


class CompiledOperations:
    """cross_entropy.TorchOperations compiled by torch: on a GPU, each operation takes few passes over memory."""

    def __init__(self, backend: str) -> None:
        self.normalize = torch.compile(TORCH_OPERATIONS.normalize, backend=backend)
        self.normalize_backward = torch.compile(TORCH_OPERATIONS.normalize_backward, backend=backend)
        self.losses_and_gradient = torch.compile(_losses_and_gradient, backend=backend)


def _losses_and_gradient(logits_RW: Tensor, targets_RK: Tensor, weights_K: Tensor) -> tuple[Tensor, Tensor]:
    """As in cross_entropy.TorchOperations, with comparisons in place of gather and scatter: one elementwise pass."""
    logs_RKV = logits_RW.view(*targets_RK.shape, -1).to(weights_K.dtype).log_softmax(-1)
    is_target_RKV = torch.arange(logs_RKV.shape[-1], device=logs_RKV.device) == targets_RK[..., None]
    losses_RK = -torch.where(is_target_RKV, logs_RKV, 0.0).sum(-1)  # 0 for IGNORE_INDEX, which is no class
    gradient_RKV = (logs_RKV.exp() - is_target_RKV.to(logs_RKV.dtype)) * weights_K[:, None]
    gradient_RKV = torch.where(targets_RK[..., None] == IGNORE_INDEX, 0.0, gradient_RKV)
    return gradient_RKV.view(logits_RW.shape).to(logits_RW.dtype), losses_RK.sum(0)
