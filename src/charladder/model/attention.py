"""Causal self-attention, with or without a cache.

Shapes: B sequences, T new characters, S characters (cached and new), D width, H heads, E head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.kv_cache import ExtendFunction
from charladder.model.norm import make_norm
from charladder.model.rotary import rotate


class Attention(nn.Module):
    def __init__(self, settings: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_size = settings.attention_heads, settings.head_size
        modern = settings.block == "modern"
        D = settings.width
        self.query, self.key = nn.Linear(D, D, bias=not modern), nn.Linear(D, D, bias=not modern)
        self.value, self.output = nn.Linear(D, D, bias=not modern), nn.Linear(D, D, bias=not modern)
        self.query_norm = make_norm(settings, self.head_size) if modern else None
        self.key_norm = make_norm(settings, self.head_size) if modern else None

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        extend: ExtendFunction | None,
        dropout: Dropout | None,
    ) -> Tensor:
        B, T, D = x_BTD.shape

        def split(y_BTD: Tensor) -> Tensor:
            return y_BTD.view(B, T, self.heads, self.head_size).transpose(1, 2)

        q, k, v = split(self.query(x_BTD)), split(self.key(x_BTD)), split(self.value(x_BTD))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary).to(v.dtype), rotate(k, *rotary).to(v.dtype)  # angles are in float32
        mask = None
        if extend is not None:
            k, v, mask = extend(k, v)
        if dropout is not None:
            y_BHTE = explicit_attention(q, k, v, dropout.fold_in(1))
        elif mask is not None:
            y_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        elif T == 1:
            y_BHTE = F.scaled_dot_product_attention(q, k, v)
        elif k.shape[2] == T:
            y_BHTE = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(T, k.shape[2], q.device))
        return self.output(y_BHTE.transpose(1, 2).reshape(B, T, D))


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """Which of S characters each of the last T attends to, (T, S): itself and all before."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, dropout: Dropout) -> Tensor:
    """Attention with dropout on its weights. torch's fused attention draws its own masks, so it cannot be used."""
    score_BHTS = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    score_BHTS = score_BHTS.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), float("-inf"))
    return dropout(score_BHTS.softmax(-1)) @ v
