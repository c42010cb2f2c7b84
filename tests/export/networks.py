"""A small network with the layout of Qwen3 and without symmetries, for the tests of exports."""

from typing import Any

import torch

from charladder.model import ModelConfig, Transformer
from helpers import small


def varied_network(symbols: int = 256, seed: int = 0, **changes: Any) -> Transformer:
    """Every tensor is random: gains of norms are not 1, and outputs of blocks are not 0."""
    settings: ModelConfig = small(layers=2, width=16, feed_forward=24, **changes)
    network, generator = Transformer(settings, symbols, seed).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return network
