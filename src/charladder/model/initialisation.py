"""Initialisation of a network's parameters."""

import math

import torch
from torch import nn

from charladder.model.config import ModelConfig


@torch.no_grad()
def initialise(model: nn.Module, settings: ModelConfig, seed: int) -> None:
    """Fills all parameters of a Transformer by the rule `settings.initialisation`, as a function of `seed` alone.

    The output layer starts small under every rule, so that an untrained network predicts nearly uniformly.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.is_meta:  # drawing numbers would import torch's compiler, which takes a second
            continue
        last = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
        if name == "output.weight":
            parameter.normal_(0, 0.1 / math.sqrt(settings.width), generator=generator)
        elif name.startswith("tables"):
            parameter.normal_(0, 0.02, generator=generator)
        elif name.startswith("ngrams"):
            parameter.zero_()
        elif "norm" in name and name.endswith("weight"):
            parameter.fill_(1)
        elif parameter.ndim == 1:
            parameter.zero_()
        elif name == "embedding.weight" and settings.initialisation == "xavier":
            parameter.normal_(0, 1, generator=generator)
        elif settings.initialisation == "xavier":
            parameter.normal_(0, math.sqrt(2 / sum(parameter.shape)), generator=generator)
        elif name == "embedding.weight" and (settings.initialisation == "scaled" or settings.positions == "sinusoidal"):
            parameter.normal_(0, 0.5, generator=generator)
        elif settings.initialisation == "normal":
            parameter.normal_(0, 0.02 / (math.sqrt(2 * settings.layers) if last else 1), generator=generator)
        elif last:
            parameter.zero_()
        else:
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
