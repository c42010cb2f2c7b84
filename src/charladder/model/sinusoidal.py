"""Sinusoidal position embedding (Vaswani et al. 2017, section 3.5).

Shapes: C positions, D width.
"""

import torch
from torch import Tensor

MAX_WAVELENGTH = 10000.0  # the wavelengths go from 2 pi to 2 pi times this


def sinusoidal_signal(length: int, width: int) -> Tensor:
    """The embeddings of positions 0 to `length`, (C, D), in float32: column 2 i of position t is
    sin(t / 10000 ** (2 i / D)), and column 2 i + 1 is the cosine of the same angle."""
    frequency = MAX_WAVELENGTH ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
    angle = torch.outer(torch.arange(length, dtype=torch.float64, device="cpu"), frequency)
    signal_CD = torch.empty(length, width, device="cpu")
    signal_CD[:, 0::2], signal_CD[:, 1::2] = angle.sin(), angle[:, : width // 2].cos()
    return signal_CD
