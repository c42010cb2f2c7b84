"""The KV cache: the characters that were read, and the keys and values of attention for them.

A preallocated pair of tensors for each layer, (B, H, C, E): B sequences, H heads, C characters of context, E head size.
Truncation only changes `length`: later entries are overwritten in place.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from charladder.model.config import ModelConfig

# Adds new keys and values of a layer to a cache. Returns all of its keys and values, and the attention mask
# (B, 1, T, S), or None where each new character attends to all characters up to itself.
ExtendFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]


class KVCache:
    """capacity: characters of each sequence, `settings.context` unless given. Learned positions allow no more."""

    def __init__(
        self,
        settings: ModelConfig,
        batch: int = 1,
        capacity: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = capacity or settings.context
        shape = (batch, settings.attention_heads, self.capacity, settings.head_size)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(settings.layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(settings.layers)]
        self.tokens_BC = torch.zeros(batch, self.capacity, dtype=torch.long, device=device)
        self.length = 0

    def extend(self, layer: int, key_BHTE: Tensor, value_BHTE: Tensor) -> tuple[Tensor, Tensor, None]:
        """Writes T keys and values of a layer at position `length`; returns all up to the new ones."""
        end = self.length + key_BHTE.shape[2]
        self.keys[layer][:, :, self.length : end] = key_BHTE
        self.values[layer][:, :, self.length : end] = value_BHTE
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end], None

    def append_tokens(self, tokens_BT: Tensor) -> Tensor:
        """Writes T characters at position `length`; returns all up to the new ones."""
        end = self.length + tokens_BT.shape[1]
        self.tokens_BC[:, self.length : end] = tokens_BT
        return self.tokens_BC[:, :end]

    def seek(self, position: int) -> None:
        """Sets the position of the next character. Entries from there on are overwritten."""
        self.length = position
