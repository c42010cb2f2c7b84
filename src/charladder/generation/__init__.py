"""Text generation: sampling, speculative decoding, the generation loop."""

from charladder.generation.distribution import SamplingParams, distribution
from charladder.generation.loop import GenerationLoop, generate
from charladder.generation.sequence import SequenceState

__all__ = ["GenerationLoop", "SamplingParams", "SequenceState", "distribution", "generate"]
