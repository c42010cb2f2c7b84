"""Drafting heads, fitted to a frozen network and saved beside it.

Shapes: B windows, T characters, D width, F feed-forward width, V symbols.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model import Transformer
from charladder.model.norm import EPSILON


class ChainedHead(nn.Module):
    """Drafts one character after another, each conditioned on the earlier drafts: a layer without attention, applied
    again for every character, as in the sequential modules of DeepSeek-V3 (2024, section 2.2) and Hydra (Ankner et al.
    2024). Its first state is the input of the network's output layer."""

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
    """A chained head and linear classifiers. targets: predict the character k ahead from the input of the output layer.
    early_exit: predict the next character from the state of a layer, normalized without parameters."""

    def __init__(
        self, width: int, alphabet: int, feed_forward: int, targets: tuple[int, ...] = (), layers: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.chain = ChainedHead(width, alphabet, feed_forward)
        self.targets = nn.ModuleDict({str(k): nn.Linear(width, alphabet, bias=False) for k in targets})
        self.early_exit = nn.ModuleDict({str(layer): nn.Linear(width, alphabet, bias=False) for layer in layers})

    @torch.no_grad()
    def initialise_from(self, network: Transformer, seed: int = 0) -> "DraftingHeads":
        """Copies the network's embedding and output layer, so that the chain's layer initially does nothing."""
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
