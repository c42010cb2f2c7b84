"""Fitting of drafting heads to a frozen network.

The loss is the cross-entropy with the distribution of the network, not with the text: the closer a draft distribution
is to that of the network, the more drafts are accepted.

Shapes: B windows, T characters, D width, V symbols.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charladder.errors import UserError
from charladder.generation.speculative.drafting_heads import DraftingHeads
from charladder.model import Transformer
from charladder.text import Windows


@dataclass(frozen=True)
class FitConfig:
    """steps, seconds: the budget; one of them is 0. batch: windows per step. ahead: characters that the chain learns
    to draft. rate: the peak learning rate."""

    steps: int = 0
    seconds: float = 0.0
    batch: int = 8
    ahead: int = 5
    rate: float = 3e-3

    def __post_init__(self) -> None:
        if (self.steps > 0) == (self.seconds > 0):
            raise UserError("refit needs exactly one budget above 0, in steps or in minutes")
        if not 1 <= self.batch <= 1 << 16:
            raise UserError(field="batch", value=self.batch, rule="it must be between 1 and 65,536 windows")
        if not 0 < self.rate < 1:
            raise UserError(field="rate", value=self.rate, rule="it must be above 0 and below 1")
        if not 1 <= self.ahead <= 64:
            raise UserError(field="ahead", value=self.ahead, rule="it must be between 1 and 64 characters")


@dataclass(frozen=True)
class FitProgress:
    """The state after a step. progress: from 0 to 1. bits: bits per character of each head on this step's windows."""

    step: int
    progress: float
    characters: int
    seconds: float
    bits: dict[str, float]


def fit(
    network: Transformer, heads: DraftingHeads, windows: Windows, settings: FitConfig, autocast_dtype: torch.dtype
) -> Iterator[FitProgress]:
    """Fits `heads` with AdamW, with warm-up and linear decay of the learning rate; yields after every step. The network
    is left in evaluation mode. Raises UserError if a loss is not finite."""
    network.eval()
    heads.train()
    device = network.output.weight.device
    optimizer = torch.optim.AdamW(heads.parameters(), lr=settings.rate, betas=(0.9, 0.95), weight_decay=0.0)
    began, step, progress, characters = time.perf_counter(), 0, 0.0, 0
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(1.0, (step + 1) / 20, max(0.02, 1.1 * (1 - progress)))
        ids, _ = windows.take(settings.batch)
        ids_BT = torch.from_numpy(ids).to(device)
        with torch.autocast(device.type, autocast_dtype, enabled=autocast_dtype != torch.float32):
            losses = head_losses(network, heads, ids_BT, settings.ahead)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
        optimizer.step()
        step += 1
        characters += settings.batch * network.settings.context
        seconds = time.perf_counter() - began
        progress = step / settings.steps if settings.steps else seconds / settings.seconds
        bits = {name: float(loss.detach()) / math.log(2) for name, loss in losses.items()}
        if not all(map(math.isfinite, bits.values())):
            raise UserError(
                f"fitting failed at step {step}: a loss is not finite; check the network with `charladder evaluate`"
            )
        yield FitProgress(step, min(1.0, progress), characters, seconds, bits)
    heads.eval()


def head_losses(network: Transformer, heads: DraftingHeads, ids_BT: Tensor, ahead: int) -> dict[str, Tensor]:
    """The cross-entropy of each head with the distribution of the network, in nats, by name."""
    last = network.settings.layers
    layers = {last, *map(int, heads.early_exit)}
    with torch.no_grad():
        output = network(ids_BT[:, : network.settings.context], output_hidden=layers)
        p_BTV, normed_BTD = output.logits_BTV.float().softmax(-1), output.hidden[last].float()
    T = p_BTV.shape[1]
    losses = {}
    state_BTD = normed_BTD
    for step in range(1, min(ahead, T - 1) + 1):
        # From the state at t and the characters t + 1 to t + step, predicts character t + step + 1.
        state_BTD, logits_BTV = heads.chain(state_BTD[:, : T - step], ids_BT[:, step:T])
        losses[f"chain{step}"] = soft_cross_entropy(logits_BTV, p_BTV[:, step:])
    for key, head in heads.targets.items():
        shift = int(key) - 1
        if shift < T:
            losses[f"target{key}"] = soft_cross_entropy(head(normed_BTD[:, : T - shift]), p_BTV[:, shift:])
    for key, head in heads.early_exit.items():
        x_BTD = output.hidden[int(key)].float()
        losses[f"layer{key}"] = soft_cross_entropy(head(F.layer_norm(x_BTD, x_BTD.shape[-1:])), p_BTV)
    return losses


def soft_cross_entropy(logits_BTV: Tensor, p_BTV: Tensor) -> Tensor:
    return -(p_BTV * logits_BTV.float().log_softmax(-1)).sum(-1).mean()
