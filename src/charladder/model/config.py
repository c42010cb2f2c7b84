"""The configuration of a network. What the paper does not specify is a field with a documented default."""

import math
from dataclasses import dataclass
from typing import Literal

from charladder.errors import UserError

MAX_SIZE = {
    "layers": 1 << 12,
    "width": 1 << 20,
    "attention_heads": 1 << 16,
    "feed_forward": 1 << 22,
    "context": 1 << 24,
    "ngram_rows": 1 << 26,
}


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a network. Raises UserError that names the field of a wrong value.

    layers: Number of layers (blocks).
    width: Width of the hidden state, a multiple of attention_heads.
    attention_heads: Attention heads of a layer.
    feed_forward: Inner width of the feed-forward layer.
    context: Longest context, in characters.
    block: `modern` (RMSNorm, QK-norm, SwiGLU, no biases) or `paper` (LayerNorm, ReLU, biases).
    positions: `rotary`; learned `tables` at each layer; one learned `table`, or `sinusoidal`, at the first. `tables`
    is the paper's (section "Positional embeddings"). `sinusoidal` is the signal of Vaswani et al. 2017. `table` and
    `sinusoidal` are two readings of the paper's ablation of the tables (docs/paper.md).
    norm_placement: Normalisation before (`pre`) or after (`post`) attention and feed-forward. The paper does not say;
    `pre` trains deep networks.
    initialisation: `scaled` (1/sqrt(inputs), outputs of blocks at 0), `normal` (0.02) or `xavier`. `normal` divides the
    output matrices by sqrt(2 layers), which was usual after 2018; the standard deviation of `xavier` is
    sqrt(2 / (inputs + outputs)) (Glorot and Bengio 2010, usual in 2018), that of its embedding 1. The paper does not
    say. With sinusoidal positions the embedding has a standard deviation of 0.5 in `scaled` and `normal`, near that of
    the signal, 0.7.
    dropout: Dropout rate, on attention weights and inside the feed-forward layer. Where the paper applies dropout is
    from memory.
    rotary_base: Base of the wavelengths of rotary positions.
    ngrams: Longest n-grams with hashed embeddings, 3 to 16; 0 for none. There is one table for each length from 3 on.
    ngram_rows: Rows of the embedding table of each n-gram length.
    """

    layers: int
    width: int
    attention_heads: int
    feed_forward: int
    context: int
    block: Literal["modern", "paper"] = "modern"
    positions: Literal["rotary", "tables", "table", "sinusoidal"] = "rotary"
    norm_placement: Literal["pre", "post"] = "pre"
    initialisation: Literal["scaled", "normal", "xavier"] = "scaled"
    dropout: float = 0.0
    rotary_base: float = 10000.0
    ngrams: int = 0
    ngram_rows: int = 1 << 16

    def __post_init__(self) -> None:
        for name in MAX_SIZE:
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1")
            if getattr(self, name) > MAX_SIZE[name]:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at most {MAX_SIZE[name]:,}")
        if self.width % self.attention_heads:
            raise UserError(
                f"model.width {self.width} is not divisible by model.attention_heads {self.attention_heads}; "
                "choose a width that is a multiple of the number of heads"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise UserError(
                f"rotary positions turn pairs, and model.width / model.attention_heads is {self.head_size}, an odd "
                "number; make it even"
            )
        if self.ngrams and not 3 <= self.ngrams <= 16:
            raise UserError(f"model.ngrams is {self.ngrams}; it must be 0, for none, or from 3 to 16")
        if self.context < 2:
            raise UserError("model.context is 1; it must be at least 2 characters")
        if not 0 <= self.dropout < 1:
            raise UserError(f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        if not (math.isfinite(self.rotary_base) and self.rotary_base > 1):
            raise UserError(f"model.rotary_base is {self.rotary_base}; it must be a number above 1")

    @property
    def head_size(self) -> int:
        return self.width // self.attention_heads

    @property
    def learned_positions(self) -> bool:
        """Whether positions are learned tables, which end at the context; the others go on past it."""
        return self.positions in ("tables", "table")
