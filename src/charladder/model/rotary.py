"""Rotary position embedding (Su et al. 2021).

Shapes: B sequences, H heads, T characters, E head size.
"""

import torch
from torch import Tensor

from charladder.model.config import ModelConfig


def rotary_angles(settings: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (length, E), of positions 0 to `length`. Pairs are half a head apart, as in Qwen3."""
    size = settings.head_size
    frequency = settings.rotary_base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    """Queries or keys rotated by the angles of their positions."""
    low, high = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat((-high, low), dim=-1) * sin_TE
