"""Dropout whose masks are a function of (seed, example, place), not of ranks, micro-batches or history."""

import torch
from torch import Tensor

MASK = (1 << 63) - 1


class Dropout:
    """The masks of one micro-batch: `seeds` has one whole number an example, made from run, step and example."""

    def __init__(self, rate: float, seeds: list[int]) -> None:
        self.rate, self.seeds = rate, seeds
        self.place = 0

    def __call__(self, x_B: Tensor) -> Tensor:
        """x of shape (B, ...), elements dropped at `rate` and the rest scaled up. Calls must keep their order."""
        self.place += 1
        mask_B = torch.empty(x_B.shape, dtype=x_B.dtype, device=x_B.device)
        generator = torch.Generator(x_B.device)
        for mask, seed in zip(mask_B, self.seeds, strict=True):
            generator.manual_seed((seed * 0x9E3779B1 + self.place * 0x85EBCA77) & MASK)
            mask.bernoulli_(1 - self.rate, generator=generator)
        return x_B * mask_B / (1 - self.rate)
