"""One layer: attention and a feed-forward layer, each with a residual connection.

Shapes: B sequences, T characters, D width.
"""

from torch import Tensor, nn

from charladder.model.attention import Attention
from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.feed_forward import FeedForward
from charladder.model.kv_cache import ExtendFunction
from charladder.model.norm import make_norm


class Block(nn.Module):
    """fusible: whether `charladder.kernels.accelerate` can compute the block with its autograd functions."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.is_pre_norm = settings.norm_placement == "pre"
        self.fusible = self.is_pre_norm and settings.block == "modern" and settings.head_size % 2 == 0
        self.attention_norm, self.feed_forward_norm = make_norm(settings), make_norm(settings)
        self.attention, self.feed_forward = Attention(settings), FeedForward(settings)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        extend: ExtendFunction | None,
        dropout: Dropout | None,
    ) -> Tensor:
        """rotary: cosines and sines of the T positions, (T, E). extend: adds keys and values to a cache; returns all of
        them, and the attention mask (see ExtendFunction)."""
        if self.is_pre_norm:
            x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary, extend, dropout)
            return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD), dropout)
        # post-norm
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, rotary, extend, dropout))
        return self.feed_forward_norm(x_BTD + self.feed_forward(x_BTD, dropout))
