"""Causal self-attention, with or without a cache.

Shapes: B streams, T new characters, S characters seen (cached and new), D width, H heads, E head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.model.config import ModelConfig
from charladder.model.dropout import Dropout
from charladder.model.kv_cache import ExtendFunction
from charladder.model.norm import make_norm


def rotary_angles(settings: ModelConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (length, E), of rotary positions (Su et al. 2021), pairs half a head apart as in Qwen3."""
    size = settings.head_size
    frequency = settings.rotary_base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angle = torch.outer(torch.arange(length, dtype=torch.float64), frequency).repeat(1, 2)
    return angle.cos().float(), angle.sin().float()


def rotate(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    low, high = x_BHTE.chunk(2, dim=-1)
    return x_BHTE * cos_TE + torch.cat((-high, low), dim=-1) * sin_TE


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
        seen = None
        if extend is not None:
            k, v, seen = extend(k, v)
        if dropout is not None:
            y_BHTE = explicit_attention(q, k, v, dropout.fold_in(1))
        elif seen is not None:
            y_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        elif T == 1:
            y_BHTE = F.scaled_dot_product_attention(q, k, v)
        elif k.shape[2] == T:
            y_BHTE = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y_BHTE = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_mask(T, k.shape[2], q.device))
        return self.output(y_BHTE.transpose(1, 2).reshape(B, T, D))


def causal_mask(T: int, S: int, device: torch.device) -> Tensor:
    """What each of the last T of S characters may see: itself and everything before."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, dropout: Dropout) -> Tensor:
    """Attention with dropout on its weights; written out, because the fused one draws masks of its own."""
    score_BHTS = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    score_BHTS = score_BHTS.masked_fill(~causal_mask(q.shape[2], k.shape[2], q.device), float("-inf"))
    return dropout(score_BHTS.softmax(-1)) @ v
