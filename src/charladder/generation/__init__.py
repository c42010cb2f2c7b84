"""Generation: text from a network, exactly by its distribution."""

from charladder.generation.decode import Decoder, generate
from charladder.generation.sampling import Sampling, distribution

__all__ = ["Decoder", "Sampling", "distribution", "generate"]
