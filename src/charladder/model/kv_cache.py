"""The KV cache: the characters that were read, and the keys and values of attention for them.

A preallocated pair of tensors for each layer, (B, H, C, E): B sequences, H heads, C characters of context, E head size.
Truncation only changes `length`: later entries are overwritten in place.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from charladder.model.config import ModelConfig

# Adds new keys and values of a layer to a cache. Returns all of its keys and values, and the attention mask
# (B, 1, T, S), or None where each new character attends to all characters up to itself.
ExtendFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]


_ALIGNMENT = 64  # bytes, as torch aligns its tensors


def cache_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """A tensor of zeros. On a CPU the system allocates its pages when they are first used, so that a short text in a
    long context needs little memory; torch.zeros writes all of them."""
    if torch.device(device).type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return torch.from_numpy(memory[begin : begin + size]).view(dtype).view(shape)


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
        self.keys = [cache_memory(shape, dtype, device) for _ in range(settings.layers)]
        self.values = [cache_memory(shape, dtype, device) for _ in range(settings.layers)]
        self.tokens_BC = cache_memory((batch, self.capacity), torch.long, device)
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
