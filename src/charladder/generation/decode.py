"""Generation, one character a pass, from a cache.

Past the context: when the cache holds C characters, the last C/2 are kept and read again from position 0. So every
character is predicted from exactly what `evaluate --stride C/2` predicts it from.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from charladder.errors import BadInput
from charladder.generation.sampling import Sampling, distribution, draw
from charladder.model import Cache, Transformer


class Decoder:
    """A stream of characters that a network has read; gives the logits of the next one.

    Holds at most `context` characters (the network's own unless given) and works at constant memory.
    """

    def __init__(self, network: Transformer, context: int | None = None) -> None:
        self.network = network
        self.context = network.settings.context if context is None else context
        if self.context < 2:
            raise BadInput(f"--context {self.context} is too small; it must be at least 2 characters")
        weight = network.output.weight
        self.cache = Cache(network.settings, 1, self.context, weight.dtype, weight.device)
        self.step = self.context // 2
        self.held: list[int] = []

    @torch.inference_mode()
    def read(self, characters: list[int]) -> Tensor:
        """Reads one or more further characters; returns the logits (1, V) of the one after them."""
        over = len(self.held) + len(characters) - self.context
        if over > 0:
            turns = -(-over // self.step)
            characters = (self.held + characters)[turns * self.step :]
            self.held = []
            self.cache.truncate(0)
        tokens = torch.tensor([characters], device=self.network.output.weight.device)
        self.held = self.held + characters
        return self.network(tokens, keep=1, cache=self.cache).logits_BTV[:, -1]


def generate(
    network: Transformer,
    prompt: list[int],
    length: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    context: int | None = None,
) -> Iterator[int]:
    """Yields `length` characters that follow `prompt`, as ids.

    With an empty prompt the first character is drawn uniformly, which is what evaluation charges for it.
    The same seed gives the same text on one machine. Raises BadInput for a negative length.
    """
    if length < 0:
        raise BadInput(f"--length is {length}; it must be at least 0")
    sampling = sampling or Sampling()
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(network, context)
    logits_BV = decoder.read(prompt) if prompt else torch.zeros(1, network.output.out_features)
    for place in range(length):
        character = int(draw(distribution(logits_BV.cpu(), sampling), generator))
        yield character
        if place + 1 < length:
            logits_BV = decoder.read([character])
