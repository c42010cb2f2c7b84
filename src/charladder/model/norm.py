"""Normalisation of the stream and of attention heads."""

import torch.nn.functional as F
from torch import Tensor, nn

from charladder.kernels.autograd_functions import RMSNormFunction, use_custom_backward
from charladder.model.config import ModelConfig

EPSILON = 1e-6


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang and Sennrich 2019) with its gain in the type of its input, as torch's fused kernel wants it."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None and self.eps is not None
        if use_custom_backward(x):
            return RMSNormFunction.apply(x, self.weight, self.eps)
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(settings: ModelConfig, size: int | None = None) -> nn.Module:
    """The norm of a block's kind, over `size` features (the width unless given)."""
    size = size or settings.width
    return RMSNorm(size, eps=EPSILON) if settings.block == "modern" else nn.LayerNorm(size)
