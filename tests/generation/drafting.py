"""Small random networks, and every drafter with random heads: exactness does not depend on the quality of drafts."""

import numpy as np
import torch

from charladder.generation import SamplingParams
from charladder.generation.speculative import (
    AutoDrafter,
    ChainedHeadDrafter,
    Drafter,
    EarlyExitDrafter,
    IndependentHeadsDrafter,
    NgramDrafter,
    NoDrafter,
)  # fmt: skip
from charladder.generation.speculative.drafting_heads import ChainedHead
from charladder.inference.runner import ModelRunner
from charladder.model import Transformer
from helpers import small

DRAFTERS = ("none", "independent targets", "chained targets", "early-exit", "ngram", "auto")


def random_network(alphabet: int, noise: float = 0.2, **changes) -> Transformer:
    """A network in which no weight is zero."""
    model = Transformer(small(**changes), alphabet).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def make_drafter(
    name: str, network: Transformer, runner: ModelRunner, sampling: SamplingParams, length: int = 3
) -> Drafter:
    width, alphabet = network.settings.width, network.output.out_features
    random = torch.Generator().manual_seed(9)
    similar = network.output.weight.detach() + 0.1 * torch.randn(alphabet, width, generator=random)
    if name == "none":
        return NoDrafter()
    if name == "independent targets":
        return IndependentHeadsDrafter(
            {k: (similar.roll(k, 0), torch.zeros(alphabet)) for k in range(2, length + 2)}, sampling
        )
    if name == "chained targets":
        torch.manual_seed(3)
        chain = ChainedHead(width, alphabet, 24)
        with torch.no_grad():
            chain.output.weight.copy_(similar)
        return ChainedHeadDrafter(chain, sampling, length)
    if name == "early-exit":
        return EarlyExitDrafter(runner, 1, similar, None, sampling, length)
    if name == "ngram":
        return NgramDrafter(np.random.default_rng(1).integers(0, alphabet, 500), length)
    names = ("chained targets", "early-exit", "ngram")
    return AutoDrafter([(make_drafter(one, network, runner, sampling, length), (1, length)) for one in names])
