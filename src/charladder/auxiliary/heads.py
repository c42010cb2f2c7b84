"""Heads made from the shape of their input, for Term(head=...): each function here returns a factory of heads.

A head factory is a function from a shape to a module; write your own as `lambda shape: ...`.

>>> import torch
>>> head = linear(10)(torch.Size([32, 512]))
>>> head
Linear(in_features=512, out_features=10, bias=True)
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

HeadFactory = Callable[[torch.Size], nn.Module]


def linear(classes: int, bias: bool = True) -> HeadFactory:
    """A linear layer over the last dimension: (..., D) to (..., classes)."""
    return partial(_linear, classes, bias)


def normed(classes: int, bias: bool = True) -> HeadFactory:
    """A layer norm and a linear layer: (..., D) to (..., classes). For intermediate layers of a pre-norm transformer,
    whose hidden states are not normalised."""
    return partial(_normed, classes, bias)


def pooled(classes: int, bias: bool = True) -> HeadFactory:
    """The mean over all positions, and a linear layer: (B, C, ...) to (B, classes). For feature maps of images."""
    return partial(_pooled, classes, bias)


def projector(features: int, hidden: int | None = None, layers: int = 3) -> HeadFactory:
    """An MLP with SiLU over the last dimension, for targets that are features: (..., D) to (..., features).

    hidden: the width of its inner layers, that of the target unless given.
    """
    return partial(_projector, features, hidden or features, layers)


class GlobalAveragePool(nn.Module):
    """(B, C, ...) to (B, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(-1)


# Functions of this module instead of lambdas, so that an objective can be pickled before its heads are built.


def _linear(classes: int, bias: bool, shape: torch.Size) -> nn.Module:
    return nn.Linear(shape[-1], classes, bias=bias)


def _normed(classes: int, bias: bool, shape: torch.Size) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(shape[-1]), nn.Linear(shape[-1], classes, bias=bias))


def _pooled(classes: int, bias: bool, shape: torch.Size) -> nn.Module:
    return nn.Sequential(GlobalAveragePool(), nn.Linear(shape[1], classes, bias=bias))


def _projector(features: int, hidden: int, layers: int, shape: torch.Size) -> nn.Module:
    widths = [shape[-1], *[hidden] * (layers - 1), features]
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*parts[:-1])
