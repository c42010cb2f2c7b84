"""Heads that draft: fitted to a frozen network, saved beside it, and never part of it.

Shapes: B windows, T characters, D width, F feed-forward width, V symbols.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model import Transformer
from charladder.model.norm import EPSILON


class ChainedHead(nn.Module):
    """Drafts one character after the other, each from those drafted before: a layer without attention, used again for
    every further character, as in the chained modules of DeepSeek-V3 (2024, section 2.2) and Hydra (Ankner et al.
    2024). It begins with what the network's output layer reads."""

    def __init__(self, width: int, alphabet: int, feed_forward: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(torch.zeros(alphabet, width), freeze=False)
        self.norm, self.final_norm = nn.RMSNorm(width, eps=EPSILON), nn.RMSNorm(width, eps=EPSILON)
        self.gate, self.up = nn.Linear(width, feed_forward, bias=False), nn.Linear(width, feed_forward, bias=False)
        self.down, self.output = nn.Linear(feed_forward, width, bias=False), nn.Linear(width, alphabet, bias=False)

    def forward(self, state_BTD: Tensor, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The state after one more character, and the logits (B, T, V) of the one after that."""
        x_BTD = state_BTD + self.embedding(ids_BT)
        y_BTD = self.norm(x_BTD)
        x_BTD = x_BTD + self.down(F.silu(self.gate(y_BTD)) * self.up(y_BTD))
        return x_BTD, self.output(self.final_norm(x_BTD))


class DraftingHeads(nn.Module):
    """chain, and plain classifiers. targets: for each k, of the character k ahead, from the input of the output layer.
    early_exit: for each layer, of the next character, from that layer's state, normalized without parameters."""

    def __init__(
        self, width: int, alphabet: int, feed_forward: int, targets: tuple[int, ...] = (), layers: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.chain = ChainedHead(width, alphabet, feed_forward)
        self.targets = nn.ModuleDict({str(k): nn.Linear(width, alphabet, bias=False) for k in targets})
        self.early_exit = nn.ModuleDict({str(r): nn.Linear(width, alphabet, bias=False) for r in layers})

    @torch.no_grad()
    def initialise_from(self, network: Transformer, seed: int = 0) -> "DraftingHeads":
        """Where fitting begins: classifiers like the network's own, the chain's layer at zero."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(1)
            elif name == "chain.embedding.weight":
                parameter.copy_(network.embedding.weight)
            elif name == "chain.down.weight":
                parameter.zero_()
            elif "gate" in name or "up" in name:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.copy_(network.output.weight)
        return self
