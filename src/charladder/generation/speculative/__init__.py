"""Speculative decoding: drafters, which propose characters that the network verifies."""

from charladder.generation.speculative.auto import AutoDrafter
from charladder.generation.speculative.drafter import Drafter
from charladder.generation.speculative.early_exit import EarlyExitDrafter
from charladder.generation.speculative.ngram import NgramDrafter
from charladder.generation.speculative.no_drafter import NoDrafter
from charladder.generation.speculative.target_heads import ChainedHeadDrafter, IndependentHeadsDrafter
from charladder.generation.speculative.trained_chain import TrainedChainDrafter

__all__ = [
    "AutoDrafter",
    "ChainedHeadDrafter",
    "Drafter",
    "EarlyExitDrafter",
    "IndependentHeadsDrafter",
    "NgramDrafter",
    "NoDrafter",
    "TrainedChainDrafter",
]
