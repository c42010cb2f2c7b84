"""One layer: attention, then a feed-forward layer, each added to the stream that runs up the ladder.

Shapes: B streams, T characters, D width, F feed-forward width.
"""

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from charladder.kernels.autograd_functions import AttentionFunction, SwiGLUFunction, use_custom_backward
from charladder.model.attention import Attention
from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.kv_cache import ExtendFunction
from charladder.model.norm import EPSILON, RMSNorm, make_norm


class FeedForward(nn.Module):
    """SwiGLU without biases (`modern`; Shazeer 2020) or ReLU with biases (`paper`)."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        D, F_, modern = settings.width, settings.feed_forward, settings.block == "modern"
        self.gate = nn.Linear(D, F_, bias=False) if modern else None
        self.up, self.down = nn.Linear(D, F_, bias=not modern), nn.Linear(F_, D, bias=not modern)

    def forward(self, x_BTD: Tensor, dropout: Dropout | None) -> Tensor:
        h_BTF = F.relu(self.up(x_BTD)) if self.gate is None else F.silu(self.gate(x_BTD)) * self.up(x_BTD)
        return self.down(h_BTF if dropout is None else dropout.fold_in(2)(h_BTF))


KNOWN_MODULES = {Attention, FeedForward, RMSNorm, nn.Linear}


class Block(nn.Module):
    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.pre = settings.norm_placement == "pre"
        self.modern = self.pre and settings.block == "modern" and settings.head_size % 2 == 0
        self.attention_norm, self.feed_forward_norm = make_norm(settings), make_norm(settings)
        self.attention, self.feed_forward = Attention(settings), FeedForward(settings)

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        extend: ExtendFunction | None,
        dropout: Dropout | None,
    ) -> Tensor:
        if self.modern and extend is None and dropout is None and use_custom_backward(x_BTD) and self.has_no_hooks():
            return self.forward_custom_backward(x_BTD, rotary)
        if self.pre:
            x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rotary, extend, dropout)
            return x_BTD + self.feed_forward(self.feed_forward_norm(x_BTD), dropout)
        x_BTD = self.attention_norm(x_BTD + self.attention(x_BTD, rotary, extend, dropout))
        return self.feed_forward_norm(x_BTD + self.feed_forward(x_BTD, dropout))

    def has_no_hooks(self) -> bool:
        """Whether no part has a hook and none was replaced by a module of another class."""
        return all(
            type(part) in KNOWN_MODULES
            and not (part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)
            for part in self.modules()
            if part is not self
        )

    def forward_custom_backward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """The same for training on a CPU, where both halves have a backward pass of their own."""
        a, f = cast(Any, self.attention), cast(Any, self.feed_forward)
        x_BTD = AttentionFunction.apply(
            x_BTD, self.attention_norm.weight, a.query.weight, a.key.weight, a.value.weight,
            a.query_norm.weight, a.key_norm.weight, a.output.weight, rotary, EPSILON,
        )  # fmt: skip
        return SwiGLUFunction.apply(
            x_BTD, self.feed_forward_norm.weight, f.gate.weight, f.up.weight, f.down.weight, EPSILON
        )
