"""Generation: text from a network, exactly by its distribution."""

from charladder.generation.decode import generate, open_reader
from charladder.generation.sampling import Sampling, distribution
from charladder.generation.stream import Stream
from charladder.generation.writer import Writer

__all__ = ["Sampling", "Stream", "Writer", "distribution", "generate", "open_reader"]
