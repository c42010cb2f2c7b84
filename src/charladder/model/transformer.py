"""The network: characters in, logits and the hidden states of the layers asked for out. It knows no loss.

Shapes: B streams, T characters, D width, V symbols of the alphabet.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from charladder.errors import UserError
from charladder.model.attention import rotary_angles
from charladder.model.block import Block
from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.kv_cache import KVCache
from charladder.model.ngrams import NgramEmbedding
from charladder.model.norm import make_norm
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
        self.embedding = nn.Embedding.from_pretrained(torch.empty(alphabet, D), freeze=False)  # filled below
        self.ngrams = NgramEmbedding(settings) if settings.ngrams else None
        tables = {"tables": L, "table": 1}.get(settings.positions, 0)
        self.tables = nn.ParameterList(nn.Parameter(torch.empty(C, D)) for _ in range(tables))
        self.blocks = nn.ModuleList(Block(settings) for _ in range(L))
        self.norm = make_norm(settings)
        self.output = nn.Linear(D, alphabet, bias=settings.block == "paper")
        self.rotary: tuple[Tensor, Tensor] | None = None
        self.signal: Tensor | None = None
        initialise(self, seed)

    def forward(
        self,
        tokens_BT: Tensor,
        output_hidden: Collection[int] = (),
        logits_to_keep: int | None = None,
        cache: KVCache | None = None,
        dropout: Dropout | None = None,
        on_hidden: Callable[[int, Tensor], None] | None = None,
    ) -> ModelOutput:
        """Predicts the character after each of the last `keep` positions (all, when None).

        With a `cache`, `tokens_BT` goes on after the characters cached there, and is added to them.
        The layers' hidden states are cut to the last `keep` positions too. They are in the output, or, with `watch`, it
        is called with each layer and its state as soon as there is one, and they are not kept.
        Raises UserError where characters lie past the context of a position table, or past the cache.
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
            cache.length = end
        final_BTD = self.norm(x_BTD[:, tail])
        if self.settings.layers in wanted:
            on_hidden(self.settings.layers, final_BTD)
        return ModelOutput(self.output(final_BTD), hidden)

    def embed(self, tokens_BT: Tensor, cache: KVCache | None = None) -> Tensor:
        """The input of the first layer, (B, T, D)."""
        x_BTD = self.embedding(tokens_BT)
        if self.ngrams is None:
            return x_BTD
        seen_BS = tokens_BT if cache is None else cache.append_tokens(tokens_BT)
        return x_BTD + self.ngrams(seen_BS, tokens_BT.shape[1])

    def forward_layers(
        self, x_BTD: Tensor, first: int, last: int, cache: KVCache | None = None, dropout: Dropout | None = None
    ) -> Tensor:
        """Runs the layers after `first` up to `last`. x: hidden states above layer `first` (0: from `embed`)."""
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
        """What is added to the input of a layer at each position, (C, D) with C at least `end`: a learned table, or at
        the first layer the sinusoidal signal, on the device and in the dtype of `like`. None where nothing is added."""
        if layer < len(self.tables):
            return self.tables[layer]
        if self.settings.positions != "sinusoidal" or layer > 0:
            return None
        if self.signal is None or len(self.signal) < end or self.signal.device != like.device:
            length = max(end, self.settings.context)
            self.signal = sinusoidal_signal(length, self.settings.width).to(like.device)
        return self.signal.to(like.dtype)

    def angles(self, begin: int, end: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
        """The rotary angles of positions begin to end; the table grows when a longer context is asked for."""
        if self.settings.positions != "rotary":
            return None
        if self.rotary is None or len(self.rotary[0]) < end or self.rotary[0].device != device:
            with torch.inference_mode(False):  # the first caller may be in inference mode, and training uses them too
                cos, sin = rotary_angles(self.settings, max(end, self.settings.context))
                self.rotary = cos.to(device), sin.to(device)
        return self.rotary[0][begin:end], self.rotary[1][begin:end]


@torch.no_grad()
def initialise(model: Transformer, seed: int) -> None:
    """Fills all parameters, as a function of `seed` alone, by the rule `settings.initialisation`.

    The output layer starts small under every rule, so that an untrained model predicts nearly uniformly.
    """
    generator = torch.Generator().manual_seed(seed)
    settings = model.settings
    for name, parameter in model.named_parameters():
        if parameter.is_meta:  # without memory; to draw numbers there would import torch's compiler, for a second
            continue
        last = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
        if name == "output.weight":
            parameter.normal_(0, 0.1 / math.sqrt(settings.width), generator=generator)
        elif name.startswith("tables"):
            parameter.normal_(0, 0.02, generator=generator)
        elif name.startswith("ngrams"):
            parameter.zero_()
        elif "norm" in name and name.endswith("weight"):
            parameter.fill_(1)
        elif parameter.ndim == 1:
            parameter.zero_()
        elif name == "embedding.weight" and (settings.initialisation == "scaled" or settings.positions == "sinusoidal"):
            parameter.normal_(0, 0.5, generator=generator)
        elif settings.initialisation == "normal":
            parameter.normal_(0, 0.02 / (math.sqrt(2 * settings.layers) if last else 1), generator=generator)
        elif last:
            parameter.zero_()
        else:
            parameter.normal_(0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
