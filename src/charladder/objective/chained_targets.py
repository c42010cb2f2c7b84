"""Chained modules for several targets: the multi-token prediction of DeepSeek-V3 (2024, arXiv 2412.19437, section 2.2).

The module of target k reads the state of target k - 1 and the character before the one that it predicts. The state of
target 1 is the input of the network's output layer. Each state is read by the network's final norm and output layer.

Shapes: B windows, T positions, S = T + K - 1 characters of the positions and after them, D width.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from charladder.model import Dropout, ModelConfig, Transformer
from charladder.model.block import Block
from charladder.model.initialisation import initialise
from charladder.model.kv_cache import ExtendFunction
from charladder.model.norm import make_norm


class ChainedModule(nn.Module):
    """h_k[t] = Block(Linear(concat(Norm(h_{k-1}[t]), Norm(embedding of character t + k - 1)))).

    The norms and the block are of the network's kind. The block adds no learned positions. seed: of the weights.
    """

    def __init__(self, settings: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        D = settings.width
        self.state_norm, self.embedding_norm = make_norm(settings), make_norm(settings)
        self.projection = nn.Linear(2 * D, D, bias=settings.block == "paper")
        self.block = Block(settings)
        initialise(self, settings, seed)

    def concatenate(self, state_BTD: Tensor, embedded_BTD: Tensor) -> Tensor:
        """The input of the projection, (B, T, 2 D)."""
        return torch.cat((self.state_norm(state_BTD), self.embedding_norm(embedded_BTD)), -1)

    def forward(
        self,
        state_BTD: Tensor,
        embedded_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        extend: ExtendFunction | None = None,
        dropout: Dropout | None = None,
    ) -> Tensor:
        """rotary, extend: as in Block."""
        return self.block(self.projection(self.concatenate(state_BTD, embedded_BTD)), rotary, extend, dropout)


def chained_states(
    network: Transformer,
    modules: Mapping[int, ChainedModule],
    final_BTD: Tensor,
    ids_BS: Tensor,
    last: int,
    dropout: Dropout | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yields target and state (B, T, D) for the targets 2 to `last`.

    modules: by target. final_BTD: the input of the network's output layer. ids_BS: the characters of the positions and
    at least `last` - 1 after them.
    """
    T = final_BTD.shape[1]
    state_BTD, rotary = final_BTD, network.angles(0, T, final_BTD.device)
    for k in range(2, last + 1):
        embedded_BTD = network.embedding(ids_BS[:, k - 1 : T + k - 1])
        masks = None if dropout is None else dropout.fold_in(network.settings.layers + k - 2)
        state_BTD = modules[k](state_BTD, embedded_BTD, rotary, dropout=masks)
        yield k, state_BTD


def chained_logits(network: Transformer, state_BTD: Tensor) -> Tensor:
    """The logits of a target, from its state."""
    return network.output(network.norm(state_BTD))
