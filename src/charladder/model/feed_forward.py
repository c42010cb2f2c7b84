"""The feed-forward layer of a block.

Shapes: B sequences, T characters, D width, F feed-forward width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout


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
