"""Dropout whose masks are a function of (seed, example, site, element), not of ranks, micro-batches or earlier steps.

A site is where dropout is applied: a layer, and a part of the layer. Random numbers are hashes of counters, computed
with tensor operations: every device gives the same masks, and the code can be compiled.

Shapes: B examples, N elements of one example. Integer products overflow on purpose, as part of the hash.
"""

from typing import NamedTuple

import torch
from torch import Tensor

SPREAD, MIX = 0x2545F4914F6CDD1D, 0x5851F42D4C957F2D  # odd factors for keys, int64
STRIDE, FIRST, SECOND = 0x1E3779B1, 0x7FEB352D, 0x046CA68B  # odd factors for elements, int32


class Dropout(NamedTuple):
    """The masks of one micro-batch at one site. rate: of elements set to zero. keys_B: int64, one for each example."""

    rate: float
    keys_B: Tensor

    def fold_in(self, number: int) -> "Dropout":
        """The masks of site `number` inside this one: a layer of the network, or a part of a layer."""
        keys_B = self.keys_B * SPREAD + number
        keys_B = (keys_B ^ (keys_B >> 31 & 0x1FFFFFFFF)) * SPREAD
        keys_B = (keys_B ^ (keys_B >> 32 & 0xFFFFFFFF)) * MIX
        return Dropout(self.rate, keys_B ^ (keys_B >> 29 & 0x7FFFFFFFF))

    def __call__(self, x_B: Tensor) -> Tensor:
        """x of shape (B, ...) with elements set to zero at `rate` and the others divided by 1 - rate."""
        low_B1, high_B1 = (half[:, None].to(torch.int32) for half in (self.keys_B & 0x7FFFFFFF, self.keys_B >> 32))
        n_1N = torch.arange(x_B[0].numel(), dtype=torch.int32, device=x_B.device) ^ low_B1[:1] & 0  # unchanged,
        # but not constant: torch's compiler would fold constants with integers that do not overflow, and fail
        h_BN = n_1N * STRIDE ^ low_B1
        h_BN = (h_BN ^ (h_BN >> 16 & 0xFFFF)) * FIRST ^ high_B1
        h_BN = (h_BN ^ (h_BN >> 15 & 0x1FFFF)) * SECOND
        h_BN = h_BN ^ (h_BN >> 16 & 0xFFFF)
        kept_BN = h_BN >= int(self.rate * 2**32) - 2**31
        return x_B * kept_BN.view(x_B.shape) / (1 - self.rate)  # in this order: 1 / (1 - rate) is not exact in bfloat16
