"""The cache: characters already read, and the keys and values of attention for them.

One preallocated pair of tensors a layer, (B, H, C, E): B streams, H heads, C characters of context, E head size.
Rolling back is a number: what lies past `length` is overwritten in place.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from charladder.model.config import ModelConfig

# One layer's part of a cache: new keys and values; all of them, and which of them each new character sees (S, 1, T, L),
# or None where it sees those up to itself.
ExtendFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]


class KVCache:
    """Room for `settings.context` characters of `batch` streams, or for `capacity` (learned positions allow no more
    than the context)."""

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
        """Writes T further keys and values of a layer behind `length`; returns all up to and with them."""
        end = self.length + key_BHTE.shape[2]
        self.keys[layer][:, :, self.length : end] = key_BHTE
        self.values[layer][:, :, self.length : end] = value_BHTE
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end], None

    def append_tokens(self, tokens_BT: Tensor) -> Tensor:
        """Writes T further characters behind `length`; returns all up to and with them."""
        end = self.length + tokens_BT.shape[1]
        self.tokens_BC[:, self.length : end] = tokens_BT
        return self.tokens_BC[:, :end]

    def truncate(self, length: int) -> None:
        """Forgets everything from character `length` on."""
        self.length = min(self.length, length)
