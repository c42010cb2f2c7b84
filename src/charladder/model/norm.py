"""Normalization of hidden states and of attention heads."""

import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model.config import ModelConfig

EPSILON = 1e-6


class RMSNorm(nn.RMSNorm):
    """RMSNorm (Zhang and Sennrich 2019) with its gain in the dtype of its input, as torch's fused kernel requires."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


def make_norm(settings: ModelConfig, size: int | None = None) -> nn.Module:
    """The norm of a block's kind, over `size` features (the width unless given)."""
    size = size or settings.width
    return RMSNorm(size, eps=EPSILON) if settings.block == "modern" else nn.LayerNorm(size)
