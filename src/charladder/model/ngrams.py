"""Embeddings of the last 3 to n characters, hashed, added to the embedding of the character.

There is a table for each order. The hash of an n-gram selects its row; n-grams with the same row share an embedding.
The first characters of a window have fewer characters before them, and are hashed with a padding value. A network with
these embeddings does not have the layout of Qwen3 and cannot be exported.

Shapes: B streams, T characters, S characters seen (those before, as far as they are known, and the T), D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model.config import ModelConfig

SMALLEST = 3
SPREAD, MIX = 0x9E3779B1, 0x5851F42D4C957F2D  # odd factors; products wrap at 64 bits, which is what mixes them


class NgramEmbedding(nn.Module):
    """Gradients are sparse: a step touches the rows of the n-grams that it reads."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.largest, self.rows = settings.ngrams, settings.ngram_rows
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(torch.empty(self.rows, settings.width), freeze=False, sparse=True)
            for _ in range(SMALLEST, self.largest + 1)
        )

    def forward(self, seen_BS: Tensor, length: int) -> Tensor:
        """Embeddings (B, T, D) of the last `length` of the characters."""
        padded = F.pad(seen_BS.long() + 1, (self.largest - 1, 0))
        begin, end = seen_BS.shape[1] - length, seen_BS.shape[1]
        hash_BT = torch.zeros_like(padded[:, :length])
        parts = []
        for order in range(1, self.largest + 1):
            back = self.largest - order
            hash_BT = hash_BT * SPREAD + padded[:, begin + back : end + back]
            if order >= SMALLEST:
                parts.append(self.tables[order - SMALLEST](((hash_BT * MIX) >> 24) % self.rows))
        return torch.stack(parts).sum(0)
