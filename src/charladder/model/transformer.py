"""The network: from characters to logits and hidden states.

Shapes: B sequences, T characters, D width, V symbols of the alphabet, C positions.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from charladder.errors import UserError
from charladder.model.block import Block
from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.initialisation import initialise
from charladder.model.kv_cache import KVCache
from charladder.model.ngrams import NgramEmbedding
from charladder.model.norm import make_norm
from charladder.model.position_tables import table_length
from charladder.model.rotary import rotary_angles
from charladder.model.sinusoidal import sinusoidal_signal


@dataclass(frozen=True)
class ModelOutput:
    """logits_BTV: unnormalised log-probabilities of the next character.
    hidden: hidden states (B, T, D) by layer, 1 to `layers`; that of the last layer is after the final norm, the others
    are before any norm.
    """

    logits_BTV: Tensor
    hidden: dict[int, Tensor]


class Transformer(nn.Module):
    """A causal character transformer (Al-Rfou et al. 2018, section "Character Transformer Model"; or modern)."""

    def __init__(self, settings: ModelConfig, alphabet: int, seed: int = 0) -> None:
        super().__init__()
        self.settings = settings
        L, D, C = settings.layers, settings.width, settings.context
        self.embedding = nn.Embedding.from_pretrained(torch.empty(alphabet, D), freeze=False)  # filled by initialise
        self.ngrams = NgramEmbedding(settings) if settings.ngrams else None
        self.lookback = (
            settings.ngrams - 1 if settings.ngrams else 0
        )  # earlier characters that an input embedding reads
        tables = {"tables": L, "table": 1}.get(settings.positions, 0)
        self.tables = nn.ParameterList(nn.Parameter(torch.empty(C, D)) for _ in range(tables))
        self.blocks = nn.ModuleList(Block(settings) for _ in range(L))
        self.norm = make_norm(settings)
        self.output = nn.Linear(D, alphabet, bias=settings.block == "paper")
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.signal: Tensor | None = None
        initialise(self, settings, seed)

    def forward(
        self,
        tokens_BT: Tensor,
        output_hidden: Collection[int] = (),
        logits_to_keep: int | None = None,
        cache: KVCache | None = None,
        dropout: Dropout | None = None,
        on_hidden: Callable[[int, Tensor], None] | None = None,
    ) -> ModelOutput:
        """Predicts the character after each of the last `logits_to_keep` positions (None: of all).

        cache: holds the characters before `tokens_BT`, which are added to it.
        output_hidden: the layers whose hidden states are returned, for the last `logits_to_keep` positions.
        on_hidden: if given, it is called with each of these layers and its hidden state, and they are not returned.
        Raises UserError if there are more characters than the position tables or the cache can hold.
        """
        begin = cache.length if cache is not None else 0
        end = begin + tokens_BT.shape[1]
        if len(self.tables) and end > self.settings.context:
            raise UserError(f"{end} characters are more than the {self.settings.context} the position tables hold")
        if cache is not None and end > cache.capacity:
            raise UserError(f"{end} characters are more than the {cache.capacity} the cache holds")
        x_BTD, hidden = self.embed(tokens_BT, cache), {}
        wanted, tail = set(output_hidden), slice(None) if logits_to_keep is None else slice(-logits_to_keep, None)
        on_hidden = on_hidden or hidden.__setitem__
        for layer in range(self.settings.layers):
            x_BTD = self.forward_layers(x_BTD, layer, layer + 1, cache, dropout)
            if layer + 1 in wanted and layer + 1 < self.settings.layers:
                on_hidden(layer + 1, x_BTD[:, tail])
        if cache is not None:
            cache.seek(end)
        normed_BTD = self.norm(x_BTD[:, tail])
        if self.settings.layers in wanted:
            on_hidden(self.settings.layers, normed_BTD)
        return ModelOutput(self.output(normed_BTD), hidden)

    def embed(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """The input of the first layer, (B, T, D)."""
        seen_BS = tokens_BT if cache is None or not self.lookback else cache.append_tokens(tokens_BT)
        return self.embed_end(seen_BS, tokens_BT.shape[1])

    def embed_end(self, tokens_BS: Tensor, length: int) -> Tensor:
        """The input of the first layer at the last `length` characters, (B, length, D). It depends on the `lookback`
        characters before them too; the id -1 is a position before the first character."""
        x_BTD = self.embedding(tokens_BS[:, -length:])
        return x_BTD if self.ngrams is None else x_BTD + self.ngrams(tokens_BS, length)

    def forward_layers(
        self, x_BTD: Tensor, first: int, last: int, cache: KVCache | None = None, dropout: Dropout | None = None
    ) -> Tensor:
        """Runs layers `first` + 1 to `last`. x: the output of layer `first`, or that of `embed` where `first` is 0."""
        begin = cache.length if cache is not None else 0
        end = begin + x_BTD.shape[1]
        angles = self.angles(begin, end, x_BTD.device)
        for layer in range(first, last):
            table_CD = self.position_table(layer, end, x_BTD)
            if table_CD is not None:
                x_BTD = x_BTD + table_CD[begin:end]
            extend = None if cache is None else partial(cache.extend, layer)
            x_BTD = self.blocks[layer](x_BTD, angles, extend, None if dropout is None else dropout.fold_in(layer))
        return x_BTD

    def position_table(self, layer: int, end: int, like: Tensor) -> Tensor | None:
        """The position embeddings added to the input of a layer, (C, D) with C at least `end`, on the device and in the
        dtype of `like`: a learned table or, at the first layer, the sinusoidal signal. None if there are none."""
        if layer < len(self.tables):
            return self.tables[layer]
        if self.settings.positions != "sinusoidal" or layer > 0:
            return None
        if self.signal is None or len(self.signal) < end or self.signal.device != like.device:
            length = table_length(end, self.settings.context)
            self.signal = sinusoidal_signal(length, self.settings.width).to(like.device)
        return self.signal.to(like.dtype)

    def angles(self, begin: int, end: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The rotary angles of positions `begin` to `end`. The stored table grows when `end` is beyond it."""
        if self.settings.positions != "rotary":
            return None
        if self.rotary is None or len(self.rotary[0]) < end or self.rotary[0].device != device:
            with torch.inference_mode(
                False
            ):  # a first call in inference mode would store tensors that training cannot use
                cos, sin = rotary_angles(self.settings, table_length(end, self.settings.context))
                self.rotary = cos.to(device), sin.to(device)
        return self.rotary[0][begin:end], self.rotary[1][begin:end]
