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
    TrainedChainDrafter,
)  # fmt: skip
from charladder.generation.speculative.drafting_heads import ChainedHead
from charladder.generation.speculative.trained_chain import TrainedChain
from charladder.inference.runner import ModelRunner
from charladder.model import Transformer
from charladder.objective import LanguageModelObjective, ObjectiveConfig
from helpers import small

DRAFTERS = ("none", "independent targets", "chained targets", "trained chain", "early-exit", "ngram", "auto")


def random_network(alphabet: int, noise: float = 0.2, **changes) -> Transformer:
    """A network in which no weight is zero."""
    model = Transformer(small(**changes), alphabet).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.add_(noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return model


def random_chain(network: Transformer, targets: int, noise: float = 0.2) -> LanguageModelObjective:
    """An objective with chained targets in which no weight is zero."""
    settings = ObjectiveConfig(targets=targets, target_heads="chained", intermediate=False)
    objective = LanguageModelObjective(settings, network.settings, network.output.out_features).eval()
    with torch.no_grad():
        for seed, parameter in enumerate(objective.parameters()):
            parameter.add_(noise * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return objective


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
    if name == "trained chain":
        modules = [*random_chain(network, length + 1).heads.values()]
        return TrainedChainDrafter(TrainedChain(network, modules, runner, torch.float32), sampling)
    if name == "early-exit":
        return EarlyExitDrafter(runner, 1, similar, None, sampling, length)
    if name == "ngram":
        return NgramDrafter(np.random.default_rng(1).integers(0, alphabet, 500), length)
    names = ("chained targets", "trained chain", "early-exit", "ngram")
    return AutoDrafter([(make_drafter(one, network, runner, sampling, length), (1, length)) for one in names])
