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


class ChainedModule(nn.Module):
    """A module of a chain that predicts several tokens (DeepSeek-V3 2024, section 2.2; presets.chained_targets):
    Block(Linear(concat(Norm(state), Norm(embedded)))), of states and embedded tokens (B, T, D).

    block: a causal layer of your own, (B, T, D) to (B, T, D). norm: makes a norm of a width.

    >>> module = ChainedModule(8, nn.Linear(8, 8))
    >>> module(torch.randn(2, 5, 8), torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, width: int, block: nn.Module, norm: Callable[[int], nn.Module] = nn.RMSNorm) -> None:
        super().__init__()
        self.state_norm, self.embedding_norm = norm(width), norm(width)
        self.projection = nn.Linear(2 * width, width, bias=False)
        self.block = block

    def forward(self, state: Tensor, embedded: Tensor) -> Tensor:
        dtype = self.projection.weight.dtype  # the model may run in a lower one
        joined = torch.cat((self.state_norm(state.to(dtype)), self.embedding_norm(embedded.to(dtype))), -1)
        return self.block(self.projection(joined))


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
