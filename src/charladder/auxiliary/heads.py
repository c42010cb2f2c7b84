"""Heads made from the shape they are to read, for Term(head=...): each function here returns such a maker.

A maker is nothing but a function from a shape to a module; write your own as `lambda shape: ...`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Maker = Callable[[torch.Size], nn.Module]


def linear(classes: int, bias: bool = True) -> Maker:
    """A linear layer over the last dimension: (..., D) to (..., classes)."""
    return lambda shape: nn.Linear(shape[-1], classes, bias=bias)


def normed(classes: int, bias: bool = True) -> Maker:
    """A layer norm and a linear layer: (..., D) to (..., classes). For the inside of a pre-norm transformer, whose
    hidden states have not met the final norm."""
    return lambda shape: nn.Sequential(nn.LayerNorm(shape[-1]), nn.Linear(shape[-1], classes, bias=bias))


def pooled(classes: int, bias: bool = True) -> Maker:
    """The mean over all places, and a linear layer: (B, C, ...) to (B, classes). For feature maps of images."""
    return lambda shape: nn.Sequential(MeanOverPlaces(), nn.Linear(shape[1], classes, bias=bias))


class MeanOverPlaces(nn.Module):
    """(B, C, ...) to (B, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(-1)
