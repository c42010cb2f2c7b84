"""Embeddings of the last 3 to n characters, hashed, added to the embedding of the character.

There is a table for each order. The hash of an n-gram selects its row; n-grams with the same row share an embedding.
The first characters of a window have fewer characters before them, and are hashed with a padding value. A network with
these embeddings does not have the layout of Qwen3 and cannot be exported.

Shapes: B sequences, T characters, S characters (the cached ones and the T), D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model.config import ModelConfig

MIN_ORDER = 3
SPREAD, MIX = 0x9E3779B1, 0x5851F42D4C957F2D  # odd factors; products overflow 64 bits on purpose, as part of the hash


class NgramEmbedding(nn.Module):
    """Gradients are sparse: a step touches the rows of the n-grams that it reads."""

    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.largest, self.rows = settings.ngrams, settings.ngram_rows
        self.tables = nn.ModuleList(
            nn.Embedding.from_pretrained(torch.empty(self.rows, settings.width), freeze=False, sparse=True)
            for _ in range(MIN_ORDER, self.largest + 1)
        )

    def forward(self, tokens_BS: Tensor, length: int) -> Tensor:
        """Embeddings (B, T, D) of the last `length` of the characters."""
        padded = F.pad(tokens_BS.long() + 1, (self.largest - 1, 0))
        begin, end = tokens_BS.shape[1] - length, tokens_BS.shape[1]
        hash_BT = torch.zeros_like(padded[:, :length])
        parts = []
        for order in range(1, self.largest + 1):
            back = self.largest - order
            hash_BT = hash_BT * SPREAD + padded[:, begin + back : end + back]
            if order >= MIN_ORDER:
                parts.append(self.tables[order - MIN_ORDER](((hash_BT * MIX) >> 24) % self.rows))
        return torch.stack(parts).sum(0)
