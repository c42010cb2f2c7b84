"""The decoding configuration of a sequence: sampling parameters and drafter."""

from dataclasses import dataclass, field

from charladder.generation.distribution import SamplingParams
from charladder.generation.sampler import Sampler, make_sampler
from charladder.generation.speculative import Drafter


@dataclass(eq=False)
class DecodingConfig:
    """Sequences with the same configuration object are drafted and verified together."""

    sampling: SamplingParams
    drafter: Drafter
    sampler: Sampler = field(init=False)

    def __post_init__(self) -> None:
        self.sampler = make_sampler(self.sampling)
