"""Whatever proposes characters for the network to verify, one a file."""

from charladder.generation.drafters.auto import AutoDrafter
from charladder.generation.drafters.interface import Drafter
from charladder.generation.drafters.ngram import NgramDrafter
from charladder.generation.drafters.none import NoDrafter
from charladder.generation.drafters.rungs import RungDrafter
from charladder.generation.drafters.targets import ChainedTargets, PlainTargets

__all__ = ["AutoDrafter", "ChainedTargets", "Drafter", "NgramDrafter", "NoDrafter", "PlainTargets", "RungDrafter"]
